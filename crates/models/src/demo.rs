//! The demo registry: a small MLflow store saved by real MLflow (`demo/make_store.py`), embedded in the binary.

use std::io;
use std::path::Path;

use crate::artifacts::private_dir;
use crate::demo_files::FILES;

/// Writes the demo store below `to` and answers the registry URI for it. It holds the models `iris`
/// (XGBClassifier, version 1, stage `Production`, alias `champion`) and `diabetes` (XGBRegressor, version 1, stage
/// `Staging`, alias `champion`). Files that are there already are left alone.
pub fn unpack_demo_store(to: &Path) -> io::Result<String> {
    let root = to.join("mlruns");
    for (name, bytes) in FILES {
        let path = root.join(name);
        if path.is_file() {
            continue;
        }
        if let Some(folder) = path.parent() {
            private_dir(folder)?;
        }
        std::fs::write(&path, bytes)?;
    }
    let root = root.canonicalize()?;
    Ok(format!("file://{}", root.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_list_is_the_checked_in_folder() {
        let store = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/store");
        let mut found = Vec::new();
        let mut open = vec![store.clone()];
        while let Some(folder) = open.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    open.push(path);
                } else {
                    found.push(path.strip_prefix(&store).unwrap().to_str().unwrap().to_owned());
                }
            }
        }
        found.sort();
        assert_eq!(found, FILES.iter().map(|(name, _)| (*name).to_owned()).collect::<Vec<_>>());
        assert!(FILES.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() < 200_000);
    }
}
