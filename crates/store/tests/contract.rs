//! One suite, run on every engine. PostgreSQL is the one that `MILLGATE_TEST_POSTGRES` names; CI must have one.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may stop")]

use std::collections::BTreeMap;

use millgate_store::{KeyRecord, PrincipalRecord, SecretRecord, SessionRecord, Store, StoreError};
use serde_json::json;

async fn on_every_engine<F: AsyncFn(Store)>(suite: F) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("data/a ?#%.db");
    suite(Store::open_file(&file).await.unwrap()).await;
    assert!(file.is_file());
    match std::env::var("MILLGATE_TEST_POSTGRES") {
        Ok(uri) => suite(Store::open(&uri).await.unwrap()).await,
        Err(_) => {
            assert!(std::env::var_os("CI").is_none(), "CI must set MILLGATE_TEST_POSTGRES");
            eprintln!("skipped on PostgreSQL: MILLGATE_TEST_POSTGRES names none");
        }
    }
}

/// Ids of this run: the same database may have seen another.
fn unique(name: &str) -> String {
    use std::time::{SystemTime, UNIX_EPOCH};
    format!("{name}-{}", SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos())
}

fn key(name: &str, at: i64) -> (KeyRecord, SecretRecord) {
    let id = unique(name);
    let key = KeyRecord {
        id: id.clone(),
        name: name.to_owned(),
        prefix: "mg-abc".to_owned(),
        roles: vec!["invoke".to_owned()],
        scope: json!({ "endpoints": ["chat-*"] }),
        owner: json!({ "team": "fraud" }),
        tags: BTreeMap::from([("team".to_owned(), "a \"quoted\" one".to_owned())]),
        created_by: "owner".to_owned(),
        created_ms: at,
        updated_ms: at,
        expires_ms: Some(at + 1000),
        ..KeyRecord::default()
    };
    (key, SecretRecord { hash: unique("hash"), key_id: id, until_ms: None })
}

#[tokio::test]
async fn keys_are_kept_changed_and_read_back() {
    on_every_engine(async |store| {
        let at = 4_000_000_000_000;
        let (first, secret) = key("first", at);
        store.add_key(&first, &secret).await.unwrap();
        let of = async |id: &str, since| {
            let (keys, secrets) = store.keys_since(since).await.unwrap();
            let key = keys.into_iter().find(|key| key.id == id);
            let mut secrets: Vec<_> = secrets.into_iter().filter(|secret| secret.key_id == id).collect();
            secrets.sort_by_key(|secret| secret.until_ms.is_none());
            (key, secrets)
        };
        assert_eq!(of(&first.id, 0).await, (Some(first.clone()), vec![secret.clone()]));
        assert_eq!(of(&first.id, at + 1).await.0, None, "nothing changed since");

        let fresh = SecretRecord { hash: unique("hash"), ..secret.clone() };
        store.rotate_key(&fresh, "mg-def", at + 5, at + 500).await.unwrap();
        let (changed, secrets) = of(&first.id, at + 5).await;
        assert_eq!((changed.unwrap().prefix, secrets.len()), ("mg-def".to_owned(), 2));
        assert_eq!((secrets[0].until_ms, secrets[1].until_ms), (Some(at + 500), None));
        // A second rotation does not lengthen the first grace.
        let newer = SecretRecord { hash: unique("hash"), ..secret.clone() };
        store.rotate_key(&newer, "mg-ghi", at + 6, at + 900).await.unwrap();
        let graces: Vec<_> = of(&first.id, 0).await.1.iter().map(|secret| secret.until_ms).collect();
        assert_eq!(graces, [Some(at + 500), Some(at + 900), None]);

        store.note_use(&[(first.id.clone(), at + 7), ("nobody".to_owned(), at)]).await.unwrap();
        store.note_use(&[(first.id.clone(), at + 3)]).await.unwrap();
        assert_eq!(of(&first.id, 0).await.0.unwrap().used_ms, Some(at + 7));
        assert_eq!(of(&first.id, at + 7).await.0, None, "use is no change");

        assert!(store.revoke_key(&first.id, at + 9).await.unwrap());
        assert!(!store.revoke_key(&first.id, at + 10).await.unwrap());
        assert!(!store.revoke_key("nobody", at + 10).await.unwrap());
        assert_eq!(of(&first.id, at + 9).await.0.unwrap().revoked_ms, Some(at + 9));
    })
    .await;
}

#[tokio::test]
async fn a_key_is_added_whole_or_not_at_all() {
    on_every_engine(async |store| {
        let (one, secret) = key("one", 1);
        let (two, other) = key("two", 1);
        store.add_key(&one, &secret).await.unwrap();
        let same = SecretRecord { hash: secret.hash.clone(), ..other };
        assert!(matches!(store.add_key(&two, &same).await, Err(StoreError::Database(_))));
        let (keys, _) = store.keys_since(0).await.unwrap();
        assert!(keys.iter().any(|key| key.id == one.id) && !keys.iter().any(|key| key.id == two.id));
    })
    .await;
}

#[tokio::test]
async fn a_file_is_opened_again_with_what_it_held_and_a_foreign_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.db");
    let store = Store::open_file(&file).await.unwrap();
    let (one, secret) = key("one", 1);
    store.add_key(&one, &secret).await.unwrap();
    store.close().await;
    let store = Store::open_file(&file).await.unwrap();
    store.probe().await.unwrap();
    assert_eq!(store.keys_since(0).await.unwrap().0, [one]);
    store.close().await;
    let foreign = folder.path().join("b.db");
    std::fs::write(&foreign, "this is no database, and long enough to be looked at").unwrap();
    assert!(Store::open_file(&foreign).await.is_err());
    let error = Store::open("postgres://user:hunter2@127.0.0.1:1/x").await.unwrap_err();
    assert!(!error.to_string().contains("hunter2"), "{error}");
}

#[tokio::test]
async fn teams_and_users_are_kept_and_changed_by_one_at_a_time() {
    on_every_engine(async |store| {
        let at = 4_000_000_000_000;
        let name = unique("team");
        let team = PrincipalRecord {
            kind: "team".to_owned(),
            name: name.clone(),
            roles: vec!["invoke".to_owned()],
            scope: json!({ "endpoints": ["chat-*"] }),
            tags: BTreeMap::from([("cost".to_owned(), "17".to_owned())]),
            created_by: "owner".to_owned(),
            created_ms: at,
            updated_ms: at,
            ..PrincipalRecord::default()
        };
        store.add_principal(&team).await.unwrap();
        assert!(store.add_principal(&team).await.is_err(), "the name is taken");
        let user = PrincipalRecord { kind: "user".to_owned(), parent: Some(name.clone()), ..team.clone() };
        store.add_principal(&user).await.unwrap();
        let found = async |since| {
            let all = store.principals_since(since).await.unwrap();
            all.into_iter().filter(|record| record.name == name).collect::<Vec<_>>()
        };
        assert_eq!(found(at).await, [team.clone(), user.clone()]);
        assert_eq!(found(at + 1).await, []);

        let disabled = PrincipalRecord { updated_ms: at + 5, disabled_ms: Some(at + 5), ..team.clone() };
        assert!(store.change_principal(&disabled, at).await.unwrap());
        assert!(!store.change_principal(&team, at).await.unwrap(), "somebody else was first");
        assert_eq!(found(at + 1).await, [disabled.clone()]);
        let removed = PrincipalRecord { updated_ms: at + 9, removed_ms: Some(at + 9), ..disabled };
        assert!(store.change_principal(&removed, at + 5).await.unwrap());
        assert!(!store.change_principal(&team, at + 9).await.unwrap(), "what is gone stays gone");
        assert!(store.add_principal(&team).await.is_err(), "and so does its name");
    })
    .await;
}

#[tokio::test]
async fn sessions_end_by_themselves_and_when_they_are_told_to() {
    on_every_engine(async |store| {
        let principal = unique("corp:alice");
        let session = |ends| SessionRecord {
            hash: unique("hash"),
            principal: principal.clone(),
            person: json!({ "by": "corp" }),
            created_ms: 100,
            expires_ms: ends,
        };
        let (one, two, three) = (session(200), session(300), session(300));
        for session in [&one, &two, &three] {
            store.add_session(session).await.unwrap();
        }
        assert_eq!(store.session(&one.hash, 199).await.unwrap(), Some(one.clone()));
        assert_eq!(store.session(&one.hash, 200).await.unwrap(), None);
        store.end_session(&two.hash).await.unwrap();
        assert_eq!(store.session(&two.hash, 199).await.unwrap(), None);
        store.add_session(&SessionRecord { created_ms: 250, ..session(400) }).await.unwrap();
        assert_eq!(store.session(&one.hash, 0).await.unwrap(), None, "what has ended is forgotten");
        assert_eq!(store.end_sessions(&principal).await.unwrap(), 2);
        assert_eq!(store.session(&three.hash, 0).await.unwrap(), None);
    })
    .await;
}
