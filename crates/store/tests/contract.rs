//! One suite, run on every engine. PostgreSQL is the one that `MILLGATE_TEST_POSTGRES` names; CI must have one.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may stop")]

use std::sync::Arc;

use std::collections::BTreeMap;

use millgate_store::{
    Began, ConfigVersion, KeyRecord, LedgerBatch, LedgerRow, PrincipalRecord, SecretRecord, SecretRow,
    SessionRecord, Spender, Store, StoreError, UsageSum, Whose, sums,
};
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
            let keys = keys_since(&store, since).await;
            let mut secrets = Vec::new();
            store.secrets_since(since, |secret| secrets.push(secret)).await.unwrap();
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

        let budget = Some(json!({ "usd": "25", "per": "30d" }));
        let changed = KeyRecord {
            roles: vec!["read".to_owned()],
            expires_ms: None,
            budget: budget.clone(),
            updated_ms: at + 8,
            prefix: "mg-ghi".to_owned(),
            used_ms: Some(at + 7),
            ..first.clone()
        };
        assert!(!store.change_key(&changed, at).await.unwrap(), "somebody rotated it meanwhile");
        assert!(store.change_key(&changed, at + 6).await.unwrap());
        assert_eq!(of(&first.id, at + 8).await.0, Some(changed.clone()));
        assert_eq!(of(&first.id, at + 8).await.0.unwrap().budget, budget);

        assert!(store.revoke_key(&first.id, at + 9).await.unwrap());
        assert!(!store.change_key(&changed, at + 9).await.unwrap(), "what is taken back stays so");
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
        let keys = keys_since(&store, 0).await;
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
    assert_eq!(keys_since(&store, 0).await, [one]);
    store.close().await;
    let foreign = folder.path().join("b.db");
    std::fs::write(&foreign, "this is no database, and long enough to be looked at").unwrap();
    assert!(Store::open_file(&foreign).await.is_err());
    let error = Store::open("postgres://user:hunter2@127.0.0.1:1/x").await.unwrap_err();
    assert!(!error.to_string().contains("hunter2"), "{error}");
}

async fn keys_since(store: &Store, since_ms: i64) -> Vec<KeyRecord> {
    let mut keys = Vec::new();
    store.keys_since(since_ms, |key| keys.push(key)).await.unwrap();
    keys
}

fn spent(id: &str, at_ms: i64, team: &str, cost: Option<i64>) -> LedgerRow {
    LedgerRow {
        id: id.to_owned(),
        at_ms,
        spender: Arc::new(Spender {
            principal: "app".to_owned(),
            team: team.to_owned(),
            tags: BTreeMap::from([("a".to_owned(), "\"b\"".to_owned())]),
            endpoint: "chat".to_owned(),
            target: "openai/gpt".to_owned(),
            operation: "chat".to_owned(),
            ..Spender::default()
        }),
        outcome: "completed".into(),
        input_tokens: 9,
        output_tokens: 7,
        rows: 0,
        cost,
        estimated: false,
    }
}

fn batch(rows: &[LedgerRow]) -> LedgerBatch {
    LedgerBatch { id: unique("batch"), rows: rows.to_vec(), sums: sums(rows) }
}

/// Another time for each run: the same database may have seen others.
fn era() -> i64 {
    use std::time::{SystemTime, UNIX_EPOCH};
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
    // Far in the future, and in steps larger than what a test writes.
    4_000_000_000_000 + (since % 1_000_000_000) * 100_000
}

#[tokio::test]
async fn the_ledger_is_written_once_and_its_sums_are_those_of_its_rows() {
    on_every_engine(async |store| {
        let at = era();
        let run = unique("run");
        // More than one statement, with a rest, over two slots and two teams.
        let rows: Vec<_> = (0..200)
            .map(|n| {
                let cost = if n % 10 == 0 { None } else { Some(n) };
                spent(&format!("{run}-{n}"), at + n * 6000, if n % 3 == 0 { "a" } else { "b" }, cost)
            })
            .collect();
        let first = batch(&rows);
        assert!(store.write_ledger("r", at, &first, &[], &[]).await.unwrap());
        // An answer of the database was lost, and all of it is written again.
        assert!(!store.write_ledger("r", at, &first, &[], &[]).await.unwrap());
        let more: Vec<_> =
            (200..210).map(|n| spent(&format!("{run}-{n}"), at + n * 6000, "b", Some(n))).collect();
        assert!(store.write_ledger("r", at, &batch(&more), &[], &[]).await.unwrap());
        let read = store.ledger(at, at + 210 * 6000, 1000).await.unwrap();
        assert_eq!(read.len(), 210);
        assert_eq!(read[..200], rows[..]);
        let usage = store.usage(at - millgate_store::SLOT_MS, at + 210 * 6000).await.unwrap();
        let mut computed = sums(&read);
        computed.sort_by_key(|sum| (sum.slot_ms, sum.spender.clone()));
        let mut usage: Vec<UsageSum> = usage;
        usage.sort_by_key(|sum| (sum.slot_ms, sum.spender.clone()));
        assert_eq!(usage, computed);
        assert_eq!(usage.iter().map(|sum| sum.requests).sum::<i64>(), 210);
        assert_eq!(usage.iter().map(|sum| sum.unpriced).sum::<i64>(), 20);
        // Others may have spent later than that: whatever the sums say.
        let from = at - millgate_store::SLOT_MS;
        let all = store.usage(from, i64::MAX).await.unwrap();
        for team in ["a", "b", "nobody"] {
            let spent = store.spent(Whose::Team, from, Some(team)).await.unwrap();
            let of_team = all.iter().filter(|sum| sum.spender.team == team).map(|sum| sum.cost);
            assert_eq!(spent.iter().map(|(_, cost)| cost).sum::<i64>(), of_team.sum::<i64>(), "{team}");
            assert_eq!(spent.len(), usize::from(team != "nobody"));
        }
        for whose in [Whose::Key, Whose::User, Whose::Team] {
            let spent = store.spent(whose, from, None).await.unwrap();
            let sum = spent.iter().map(|(_, cost)| cost).sum::<i64>();
            assert_eq!(sum, all.iter().map(|sum| sum.cost).sum::<i64>(), "{whose:?}");
        }
        store.end_writer("r").await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn what_the_dead_had_reserved_counts_as_spent_once() {
    on_every_engine(async |store| {
        let at = era();
        let (dead, alive) = (unique("dead"), unique("alive"));
        let [ended, open] = ["ended", "open"].map(|name| spent(&unique(name), at, "a", Some(500)));
        store.write_ledger(&dead, at, &batch(&[]), &[ended.clone(), open.clone()], &[]).await.unwrap();
        let row = LedgerRow { cost: Some(20), ..ended.clone() };
        store.write_ledger(&dead, at, &batch(&[row]), &[], std::slice::from_ref(&ended.id)).await.unwrap();
        store
            .write_ledger(&alive, at + 60_000, &batch(&[]), &[spent(&unique("other"), at, "a", Some(7))], &[])
            .await
            .unwrap();
        // Two replicas look at the same time.
        let other = store.clone();
        let (one, two) = tokio::join!(
            store.settle_the_dead(at + 30_000, at + 70_000),
            other.settle_the_dead(at + 30_000, at + 70_000)
        );
        assert_eq!(one.unwrap() + two.unwrap(), 1);
        let rows = store.ledger(at, at + 80_000, 100).await.unwrap();
        let lost: Vec<_> = rows.iter().filter(|row| row.outcome == "lost").collect();
        assert_eq!(lost.len(), 1, "{rows:?}");
        assert_eq!((lost[0].cost, lost[0].at_ms, &lost[0].id), (Some(500), at + 70_000, &open.id));
        assert!(rows.iter().any(|row| row.outcome == "gap" && row.cost.is_none()));
        let usage = store.usage(at - millgate_store::SLOT_MS, at + 80_000).await.unwrap();
        assert_eq!(usage.iter().map(|sum| sum.cost).sum::<i64>(), 520);
        store.end_writer(&alive).await.unwrap();
    })
    .await;
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

        let disabled = PrincipalRecord {
            updated_ms: at + 5,
            disabled_ms: Some(at + 5),
            budget: Some(json!({ "usd": "9", "per": "7d" })),
            ..team.clone()
        };
        assert!(store.change_principal(&disabled, at).await.unwrap());
        assert!(!store.change_principal(&team, at).await.unwrap(), "somebody else was first");
        assert_eq!(found(at + 1).await, std::slice::from_ref(&disabled));
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
        let all = async |at| {
            let all = store.sessions(at).await.unwrap();
            assert!(all.is_sorted_by(|one, other| one.hash < other.hash));
            all.into_iter().filter(|session| session.principal == principal).count()
        };
        assert_eq!((all(199).await, all(200).await), (3, 2));
        store.end_session(&two.hash).await.unwrap();
        assert_eq!(store.session(&two.hash, 199).await.unwrap(), None);
        store.add_session(&SessionRecord { created_ms: 250, ..session(400) }).await.unwrap();
        assert_eq!(store.session(&one.hash, 0).await.unwrap(), None, "what has ended is forgotten");
        assert_eq!(store.session(&three.hash, 299).await.unwrap(), Some(three.clone()), "others stay");
    })
    .await;
}

#[tokio::test]
async fn configurations_are_kept_in_order_with_who_and_why() {
    on_every_engine(async |store| {
        let version = |text: &str, origin: &str| ConfigVersion {
            digest: unique(text),
            text: Some(text.to_owned()),
            origin: origin.to_owned(),
            principal: "owner".to_owned(),
            reason: "a \"reason\"".to_owned(),
            applied_ms: 5,
            ..ConfigVersion::default()
        };
        let (a, b) = (version("a", "start"), version("b", "api"));
        let first = store.add_config(&a).await.unwrap();
        let second = store.add_config(&b).await.unwrap();
        assert_eq!(second, first + 1);
        let read = store.config(second).await.unwrap().unwrap();
        assert_eq!(read, ConfigVersion { id: second, ..b.clone() });
        assert_eq!(store.last_config().await.unwrap(), Some(read));
        // The same text again is not the version before.
        let third = ConfigVersion { restored: Some(second), text: None, ..b.clone() };
        let third = store.add_config(&third).await.unwrap();
        let before = store.config_before(third, &b.digest).await.unwrap().unwrap();
        assert_eq!((before.id, before.text), (first, Some("a".to_owned())));
        let listed = store.configs(i64::MAX, 2).await.unwrap();
        let shown: Vec<_> = listed.iter().map(|one| (one.id, one.restored, one.text.clone())).collect();
        assert_eq!(shown, [(third, Some(second), None), (second, None, None)]);
        assert_eq!(store.configs(second, 1).await.unwrap()[0].id, first);
        store.remove_config(third).await.unwrap();
        assert_eq!(store.config(third).await.unwrap(), None);
    })
    .await;
}

#[tokio::test]
async fn secrets_are_set_counted_rewrapped_and_deleted() {
    on_every_engine(async |store| {
        let name = unique("openai");
        let row = |value: &str, master: &str| SecretRow {
            name: name.clone(),
            master: master.to_owned(),
            data_key: format!("key of {value}"),
            value: value.to_owned(),
            updated_by: "owner".to_owned(),
            updated_ms: 7,
            ..SecretRow::default()
        };
        let of = async || store.secrets().await.unwrap().into_iter().find(|secret| secret.name == name);
        assert_eq!(store.set_secret(&row("one", "m1")).await.unwrap(), 1);
        assert_eq!(store.set_secret(&row("two", "m1")).await.unwrap(), 2);
        assert_eq!(of().await, Some(SecretRow { version: 2, ..row("two", "m1") }));
        let stale = SecretRow { version: 1, ..row("one", "m2") };
        assert!(!store.rewrap_secret(&stale).await.unwrap(), "its value is another by now");
        let rewrapped = SecretRow { version: 2, data_key: "new".to_owned(), ..row("two", "m2") };
        assert!(store.rewrap_secret(&rewrapped).await.unwrap());
        assert_eq!(of().await, Some(rewrapped));
        assert!(store.delete_secret(&name).await.unwrap() && !store.delete_secret(&name).await.unwrap());
        assert_eq!(of().await, None);
    })
    .await;
}

#[tokio::test]
async fn a_request_that_comes_twice_begins_once() {
    on_every_engine(async |store| {
        let id = unique("request");
        let at = 5_000_000_000_000;
        assert_eq!(store.begin(&id, "body", at, 0).await.unwrap(), None);
        let under_way = store.begin(&id, "other", at, 0).await.unwrap().unwrap();
        assert_eq!(under_way, Began { body: "body".to_owned(), answer: None });
        let answer = ["m", "k", "v"].map(str::to_owned);
        store.ended(&id, &answer).await.unwrap();
        assert_eq!(store.begin(&id, "body", at, at).await.unwrap().unwrap().answer, Some(answer));
        assert_eq!(store.begin(&id, "body", at + 1, at + 1).await.unwrap(), None, "it is over its time");
        store.forget(&id).await.unwrap();
        assert_eq!(store.begin(&id, "body", at + 1, at).await.unwrap(), None);
        // Many at once: one begins.
        let race = unique("race");
        let all = (0..8).map(|_| store.begin(&race, "body", at, at));
        let mut began = 0;
        for one in futures_util::future::join_all(all).await {
            began += usize::from(one.unwrap().is_none());
        }
        assert_eq!(began, 1);
    })
    .await;
}
