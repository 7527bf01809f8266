//! Going back to the version before, and staying there; and looking around in a registry.

use std::path::{Path, PathBuf};
use std::time::Duration;

use millgate_models::{Deployment, DeploymentSpec, RolledBackBy, Search};
use millgate_types::code;

use crate::support::{Bench, PATIENCE, json, registry, spec, until};

const IRIS: &str = r#"{"dataframe_split":{"columns":["sepal_length","sepal_width","petal_length","petal_width"],
    "data":[[5.1,3.5,1.4,0.2]]}}"#;

/// The demo store, whose model `iris` gets as many versions as asked for.
struct Store {
    bench: Bench,
    iris: PathBuf,
}

impl Store {
    fn new(versions: u32) -> Self {
        let bench = Bench::new(|_| {});
        bench.demo_registry();
        let iris = bench.folder.path().join("mlruns/models/iris");
        let meta = std::fs::read_to_string(iris.join("version-1/meta.yaml")).unwrap();
        for version in 2..=versions {
            let folder = iris.join(format!("version-{version}"));
            std::fs::create_dir(&folder).unwrap();
            let meta = meta.replace("\nversion: 1\n", &format!("\nversion: {version}\n"));
            std::fs::write(folder.join("meta.yaml"), meta).unwrap();
        }
        Self { bench, iris }
    }

    fn promote(&self, version: u32) {
        std::fs::write(self.iris.join("aliases/champion"), version.to_string()).unwrap();
    }

    fn spec(&self) -> DeploymentSpec {
        let uri = format!("file://{}", self.bench.folder.path().join("mlruns").display());
        spec(registry(&uri), "models:/iris@champion")
    }
}

fn version(deployment: &Deployment) -> Option<String> {
    deployment.status().version.map(|version| version.to_string())
}

async fn serves(deployment: &Deployment, wanted: &str) {
    until("the version serves", || version(deployment).as_deref() == Some(wanted)).await;
    assert_eq!(&*json(deployment, IRIS).await.unwrap().version, wanted);
}

/// Several looks at the registry.
async fn a_while() {
    tokio::time::sleep(Duration::from_millis(500)).await;
}

#[tokio::test]
async fn rolling_back_is_instant_and_holds_until_the_registry_names_another_version() {
    let store = Store::new(3);
    let deployment = store.bench.models.deploy(store.spec());
    assert!(deployment.wait_ready(PATIENCE).await);
    let fault = deployment.roll_back(None).unwrap_err();
    assert_eq!(fault.code, code::INVALID_VALUE);
    assert!(fault.public.contains("no version of `test` served before 1"), "{fault}");
    store.promote(2);
    serves(&deployment, "2").await;
    assert_eq!(&*deployment.status().kept.unwrap().version, "1");

    let switched = deployment.roll_back(None).unwrap();
    assert!(switched.live, "the version before was kept");
    assert_eq!((switched.from.as_deref(), switched.to.as_deref()), (Some("2"), Some("1")));
    serves(&deployment, "1").await;
    // The registry still names 2.
    a_while().await;
    serves(&deployment, "1").await;
    let held = deployment.status().held.unwrap();
    assert_eq!((&*held.rejected, &*held.version, held.by), ("2", "1", RolledBackBy::Operator));
    let fault = deployment.roll_back(None).unwrap_err();
    assert!(fault.public.contains("went back from version 2 to 1 already"), "{fault}");

    // Another version is followed, and ends it.
    store.promote(3);
    serves(&deployment, "3").await;
    assert!(deployment.status().held.is_none());
    store.bench.models.shutdown().await;
}

#[tokio::test]
async fn a_roll_back_outlives_the_process_and_ends_when_asked() {
    let store = Store::new(2);
    let deployment = store.bench.models.deploy(store.spec());
    assert!(deployment.wait_ready(PATIENCE).await);
    store.promote(2);
    serves(&deployment, "2").await;
    deployment.roll_back(None).unwrap();
    store.bench.models.shutdown().await;

    let again = Bench::at(store.bench.folder, |_| {});
    let uri = format!("file://{}", again.folder.path().join("mlruns").display());
    let deployment = again.models.deploy(spec(registry(&uri), "models:/iris@champion"));
    assert!(deployment.wait_ready(PATIENCE).await);
    serves(&deployment, "1").await;
    assert_eq!(deployment.status().held.unwrap().rejected, "2");
    deployment.resume().unwrap();
    serves(&deployment, "2").await;
    assert!(deployment.status().held.is_none());
    let fault = deployment.resume().unwrap_err();
    assert!(fault.public.contains("follows the registry already"), "{fault}");
    again.models.shutdown().await;
}

#[tokio::test]
async fn any_version_can_be_gone_back_to_and_forward_again_is_resuming() {
    let store = Store::new(3);
    store.promote(3);
    let deployment = store.bench.models.deploy(store.spec());
    assert!(deployment.wait_ready(PATIENCE).await);
    let switched = deployment.roll_back(Some("1")).unwrap();
    assert!(!switched.live, "it has to be loaded first");
    serves(&deployment, "1").await;
    a_while().await;
    serves(&deployment, "1").await;
    // Further, and the version that the registry names is still the one that is held.
    deployment.roll_back(Some("2")).unwrap();
    serves(&deployment, "2").await;
    assert_eq!(deployment.status().held.unwrap().rejected, "3");
    deployment.roll_back(Some("3")).unwrap();
    serves(&deployment, "3").await;
    assert!(deployment.status().held.is_none());
    for (to, part) in [("3", "is the one that serves"), ("x", "`x` is no version number")] {
        let fault = deployment.roll_back(Some(to)).unwrap_err();
        assert!(fault.public.contains(part), "{fault}");
    }
    // A version that is not there changes nothing but the status.
    deployment.roll_back(Some("9")).unwrap();
    until("the reason is known", || deployment.status().reason.is_some()).await;
    assert!(deployment.status().reason.unwrap().contains("no version 9 of model `iris`"));
    serves(&deployment, "3").await;
    store.bench.models.shutdown().await;
}

#[tokio::test]
async fn a_version_is_kept_only_as_long_as_configured() {
    let store = Store::new(3);
    let mut spec = store.spec();
    spec.keep_previous = Duration::from_millis(1);
    let deployment = store.bench.models.deploy(spec);
    assert!(deployment.wait_ready(PATIENCE).await);
    store.promote(2);
    serves(&deployment, "2").await;
    until("it is let go", || deployment.status().kept.is_none()).await;
    // Going back still works; it takes a load.
    assert!(!deployment.roll_back(None).unwrap().live);
    serves(&deployment, "1").await;
    store.bench.models.shutdown().await;
}

#[tokio::test]
async fn a_route_that_names_its_version_has_nothing_to_go_back_to() {
    let store = Store::new(2);
    let mut spec = store.spec();
    spec.model = millgate_types::ModelRef::parse("models:/iris/1").unwrap();
    let deployment = store.bench.models.deploy(spec);
    assert!(deployment.wait_ready(PATIENCE).await);
    let fault = deployment.roll_back(Some("2")).unwrap_err();
    assert!(fault.public.contains("the route of `test` names its version"), "{fault}");
    store.bench.models.shutdown().await;
}

#[tokio::test]
async fn a_registry_is_searched_and_its_models_are_described() {
    let store = Store::new(2);
    store.promote(2);
    let put = |path: &Path, text: &str| crate::support::write(path, text);
    put(&store.iris.join("tags/team"), "flowers");
    put(&store.iris.join("version-2/tags/validated"), "yes");
    let registry = store.spec().registry;
    let search = |change: fn(&mut Search)| {
        let mut search = Search { max_results: 100, ..Search::default() };
        change(&mut search);
        let registry = registry.clone();
        async move {
            let page = registry.search(&search).await.unwrap();
            let names: Vec<_> = page.models.into_iter().map(|model| model.name).collect();
            (names.join(" "), page.next_page_token)
        }
    };
    let (all, _) = search(|_| {}).await;
    assert!(all.contains("iris") && all.contains("diabetes"), "{all}");
    assert_eq!(search(|s| s.name = Some("RIS".to_owned())).await.0, "iris");
    assert_eq!(search(|s| s.tag = Some(("team".to_owned(), None))).await.0, "iris");
    assert_eq!(search(|s| s.tag = Some(("team".to_owned(), Some("cars".to_owned())))).await.0, "");
    assert!(search(|s| s.alias = Some("champion".to_owned())).await.0.contains("iris"));
    let (first, token) = search(|s| s.max_results = 1).await;
    let rest = registry.search(&Search { max_results: 1, page_token: token, ..Search::default() }).await;
    assert_ne!(rest.unwrap().models[0].name, first);

    let (model, versions) = registry.model("iris").await.unwrap();
    assert_eq!(model.latest_version.as_deref(), Some("2"));
    assert_eq!(versions[0].version, "2");
    assert_eq!(versions[0].aliases, ["champion"]);
    assert_eq!(versions[0].tags["validated"], "yes");
    let facts = registry.version("iris", 1).await.unwrap();
    assert_eq!(facts.inputs[0]["name"], "sepal_length");
    assert!(facts.flavors.iter().any(|flavor| flavor == "python_function"), "{facts:?}");
    assert!(registry.model("../iris").await.is_err());
    assert!(registry.version("iris", 7).await.is_err());
}
