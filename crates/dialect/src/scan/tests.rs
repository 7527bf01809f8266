use proptest::prelude::*;

use super::*;

fn code_of(body: &[u8]) -> &'static str {
    members(body).expect_err("must be refused").code.name
}

#[test]
fn members_are_found_where_they_stand() {
    let body = br#" {"model" : "gpt\u002d4", "stream":true,"n":3, "messages":[{"a":[1,{}]}], "x":null} "#;
    let found = members(body).unwrap();
    let names: Vec<_> = found.iter().map(|member| member.name.as_ref()).collect();
    assert_eq!(names, ["model", "stream", "n", "messages", "x"]);
    assert_eq!(found[0].string().as_deref(), Some("gpt-4"));
    assert_eq!(&body[found[0].span.clone()], br#""gpt\u002d4""#);
    assert_eq!(found[1].boolean(), Some(true));
    assert_eq!(found[2].unsigned(), Some(3));
    assert_eq!(found[3].kind, Kind::Array);
}

#[test]
fn damaged_bodies_are_refused_with_the_offset() {
    for (body, offset) in [
        (&b""[..], 0),
        (b"{", 1),
        (b"{\"a\":1", 6),
        (b"{\"a\":1}x", 7),
        (b"{\"a\":NaN}", 5),
        (b"{\"a\":01}", 6),
        (b"{\"a\":\"\xff\"}", 6),
        (b"{\"a\":\"\\ud800\"}", 6),
        (b"{\"a\":\"\\udc00\"}", 6),
        (b"{\"a\":\"\n\"}", 6),
        (b"{\"a\":[1,]}", 8),
        (b"{'a':1}", 1),
    ] {
        let fault = members(body).expect_err("must be refused");
        assert_eq!(fault.code.name, "invalid_json", "{body:?}");
        assert!(fault.public.contains(&format!("byte {offset}:")), "{body:?}: {}", fault.public);
    }
    assert_eq!(code_of(b"[1]"), "invalid_value");
    assert_eq!(code_of(br#"{"a":1,"\u0061":2}"#), "duplicate_member");
}

#[test]
fn depth_is_bounded() {
    let nested = |depth: usize| format!("{{\"a\":{}1{}}}", "[".repeat(depth), "]".repeat(depth));
    assert!(members(nested(127).as_bytes()).is_ok());
    assert_eq!(code_of(nested(128).as_bytes()), "invalid_json");
}

#[test]
fn escapes_are_found_at_every_place_of_a_block() {
    for lead in 0..140 {
        for (escape, good) in [
            ("\\n", true),
            ("\\\\", true),
            ("\\\"", true),
            ("\\\\\\\"", true),
            ("\\u00e9", true),
            ("\\ud83d\\ude00", true),
            ("\\ud83d", false),
            ("\\x", false),
            ("\u{1}", false),
        ] {
            let body = format!("{{\"k\":\"{}{escape}{}\"}}", "a".repeat(lead), "b".repeat(20));
            assert_eq!(members(body.as_bytes()).is_ok(), good, "{body}");
        }
    }
}

proptest! {
    #[test]
    fn the_scanner_agrees_with_serde_json(text in "[\\[\\]{}:,\"a\\\\u0dD8 1.eE+n-]{0,24}") {
        let body = format!("{{\"k\":{text}}}");
        let ours = members(body.as_bytes());
        let theirs: Result<serde_json::Map<String, serde_json::Value>, _> = serde_json::from_str(&body);
        match (&ours, &theirs) {
            (Ok(_), Ok(_)) | (Err(_), Err(_)) => {}
            // serde_json keeps the last of two members and refuses numbers beyond f64.
            (Err(fault), Ok(_)) => prop_assert_eq!(fault.code.name, "duplicate_member"),
            (Ok(_), Err(error)) => prop_assert!(error.to_string().contains("out of range"), "{}: {}", body, error),
        }
    }

    #[test]
    fn any_json_object_is_accepted(text in "\\PC{0,150}", number in any::<f64>(), deep in 0_usize..20) {
        let mut value = serde_json::json!({ "t": text, "n": number });
        for _ in 0..deep {
            value = serde_json::json!({ "in": [value] });
        }
        prop_assert!(members(value.to_string().as_bytes()).is_ok());
    }
}
