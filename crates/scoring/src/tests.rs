//! Bodies against signatures.

use millgate_types::code;

use proptest::prelude::*;

use crate::{ColumnData, ContentType, Data, Signature, check, input, plain};

const COLUMNS: &str = r#"[{"name":"a","type":"double","required":true},{"name":"n","type":"long","required":true},
    {"name":"s","type":"string","required":false}]"#;

fn columns() -> Signature {
    Signature::parse(Some(COLUMNS), None).unwrap()
}

fn refused(signature: &Signature, body: &str) -> String {
    let fault = check(body.as_bytes(), ContentType::Json, signature).unwrap_err();
    assert_eq!(fault.code, code::SCHEMA_MISMATCH, "{fault}");
    fault.public.into_owned()
}

#[test]
fn every_form_gives_the_same_frame() {
    let bodies = [
        r#"{"dataframe_split":{"columns":["n","a","x"],"index":[0,1],"data":[[1,0.5,9],[2,1,9]]}}"#,
        r#"{"dataframe_records":[{"a":0.5,"n":1},{"n":2,"a":1,"extra":0}]}"#,
        r#"{"instances":[{"a":0.5,"n":1},{"n":2.0,"a":1}]}"#,
        r#"{"inputs":{"a":[0.5,1],"n":[1,2]}}"#,
        r#"{"inputs":[{"a":0.5,"n":1},{"a":1,"n":2}],"params":{"ignored":1}}"#,
    ];
    for body in bodies {
        let checked = check(body.as_bytes(), ContentType::Json, &columns()).unwrap();
        let Some(Data::Frame(frame)) = checked.data else { panic!() };
        assert_eq!(checked.rows, 2);
        assert_eq!(
            frame.columns,
            [ColumnData::Float(vec![0.5, 1.0]), ColumnData::Int(vec![1, 2]), ColumnData::Missing],
            "{body}"
        );
    }
    let csv = check(b"n,s,a\n1,x,0.5\n2,,1\n", ContentType::Csv, &columns()).unwrap();
    let Some(Data::Frame(frame)) = csv.data else { panic!() };
    assert_eq!(frame.columns[2], ColumnData::Text(vec![Some("x".to_owned()), None]));
}

#[test]
fn a_misfit_names_column_row_and_types_and_never_the_value() {
    let text = refused(&columns(), r#"{"dataframe_records":[{"a":1,"n":1},{"a":1,"n":2.5}]}"#);
    assert_eq!(text, "column `n`, row 1: expected long, found number with a fraction");
    let text = refused(&columns(), r#"{"dataframe_records":[{"a":"secret-5.1","n":1}]}"#);
    assert_eq!(text, "column `a`, row 0: expected double, found string");
    let text = refused(&columns(), r#"{"dataframe_split":{"columns":["a"],"data":[[1]]}}"#);
    assert_eq!(text, "column `n`: expected long, found no such column");
    let text = refused(&columns(), r#"{"dataframe_split":{"columns":["a","n"],"data":[[1,2],[1]]}}"#);
    assert_eq!(text, "`dataframe_split`, row 1: expected 2 values, found 1");
    let text = refused(&columns(), r#"{"inputs":{"a":[1],"n":[null]}}"#);
    assert_eq!(text, "column `n`, row 0: expected long, found null");
    let text = refused(&columns(), r#"{"inputs":{"a":[1],"n":[1],"s":[false]}}"#);
    assert_eq!(text, "column `s`, row 0: expected string, found boolean");
    let text = refused(&columns(), r#"{"inputs":{"a":[1],"n":[9223372036854775808]}}"#);
    assert_eq!(text, "column `n`, row 0: expected long, found integer out of range");
    let text = refused(&columns(), r#"{"dataframe_records":[{"a":1,"n":1},{"n":1}]}"#);
    assert_eq!(text, "column `a`, row 1: expected double, found nothing");
}

#[test]
fn exactly_one_form_is_taken() {
    let text = refused(&columns(), r#"{"inputs":[],"instances":[]}"#);
    assert_eq!(text, "both `inputs` and `instances` are given, expected one of them");
    assert!(refused(&columns(), r#"{"data":[]}"#).starts_with("expected one of"));
    assert!(refused(&columns(), "[1]").contains("found list"));
    assert!(check(br#"{"messages":[]}"#, ContentType::Json, &columns()).unwrap().llm);
}

#[test]
fn tensors_are_checked_for_shape_and_raggedness() {
    let signature = Signature::parse(
        Some(r#"[{"type":"tensor","tensor-spec":{"dtype":"float64","shape":[-1,3]}}]"#),
        None,
    )
    .unwrap();
    let checked = check(b"{\"inputs\":[[1,2,3],[4,5,6.5]]}", ContentType::Json, &signature).unwrap();
    let Some(Data::Matrix(matrix)) = checked.data else { panic!() };
    assert_eq!((matrix.rows, matrix.width, matrix.values[5].to_bits()), (2, 3, 6.5_f64.to_bits()));
    assert!(refused(&signature, "{\"inputs\":[[1,2]]}").contains("expected shape [-1, 3], found [1, 2]"));
    assert!(refused(&signature, "{\"inputs\":[[1,2,3],[1,2]]}").contains("ragged"));
    assert!(refused(&signature, "{\"inputs\":[[1,2,3],4]}").contains("ragged"));
    assert!(refused(&signature, "{\"inputs\":[[1,[2],3]]}").contains("ragged"));
    assert!(refused(&signature, "{\"inputs\":[[1,\"x\",3]]}").contains("expected float64, found string"));
}

#[test]
fn params_are_checked_against_their_schema() {
    let params = r#"[{"name":"t","type":"double","default":0.5,"shape":null},{"name":"l","type":"long","default":[],"shape":[-1]}]"#;
    let signature = Signature::parse(None, Some(params)).unwrap();
    let ok = br#"{"inputs":[1],"params":{"t":1,"l":[1,2]}}"#;
    let params = check(ok, ContentType::Json, &signature).unwrap().params;
    assert_eq!(params.as_deref(), Some(r#"{"t":1,"l":[1,2]}"#));
    assert_eq!(refused(&signature, r#"{"inputs":[1],"params":{"x":1}}"#), "the model has no parameter `x`");
    let text = refused(&signature, r#"{"inputs":[1],"params":{"t":true}}"#);
    assert_eq!(text, "`params.t`: expected double, found boolean");
    assert!(refused(&signature, r#"{"inputs":[1],"params":{"l":3}}"#).contains("expected a list"));
}

#[test]
fn nested_types_are_checked_inside() {
    let inputs = r#"[{"name":"o","type":"array","items":{"type":"object","properties":{"k":{"type":"long","required":true}}},"required":true}]"#;
    let signature = Signature::parse(Some(inputs), None).unwrap();
    let text = refused(&signature, r#"{"dataframe_records":[{"o":[{"k":1},{"k":"x"}]}]}"#);
    assert_eq!(text, "column `o`, row 0 at `[1].k`: expected long, found string");
}

#[test]
fn csv_misfits_are_named_like_json_ones() {
    let fault = check(b"a,n\n1,2\n1,x\n", ContentType::Csv, &columns()).unwrap_err();
    assert_eq!(fault.public, "column `n`, row 1: expected long, found text");
    let fault = check(b"a,n\n1\n", ContentType::Csv, &columns()).unwrap_err();
    assert_eq!(fault.public, "CSV row 0: expected 2 values, found 1");
    assert!(check(b"a\n1\n", ContentType::Csv, &columns()).is_err());
}

const PLAIN: &str = r#"[{"name":"a","type":"double","required":true},{"name":"n","type":"long","required":true},
    {"name":"f","type":"float","required":false},{"name":"i","type":"integer","required":false},
    {"name":"s","type":"string","required":false},{"name":"b","type":"boolean","required":false}]"#;

fn tensor(dtype: &str) -> Signature {
    let inputs = format!(r#"[{{"type":"tensor","tensor-spec":{{"dtype":"{dtype}","shape":[-1,3]}}}}]"#);
    Signature::parse(Some(&inputs), None).unwrap()
}

/// What the one-pass reader takes, the careful one takes alike. `true` when it took it.
fn reads_alike(body: &[u8], signature: &Signature) -> bool {
    let Some(plain) = plain::read(body, signature) else { return false };
    let shown = String::from_utf8_lossy(body);
    let careful = input::carefully(body, signature).unwrap_or_else(|fault| panic!("{shown}: {fault}"));
    // By their text: NaN is equal to none, 0.0 to -0.0.
    assert_eq!(format!("{plain:?}"), format!("{careful:?}"), "{shown}");
    true
}

#[test]
fn what_callers_usually_send_is_read_in_one_pass() {
    let table = Signature::parse(Some(PLAIN), None).unwrap();
    for body in [
        r#"{"dataframe_split": {"columns": ["a", "n"], "data": [[0.1, 1], [-2e-3, -9223372036854775808]]}}"#,
        r#"{"dataframe_split":{"index":[0,1],"columns":["n","a","x","y"],"data":[[1,null,"t",null],[0,1E+2,"",2]]}}"#,
        r#"{"dataframe_split":{"columns":["a","n","f","i","s","b"],"data":[[1,2,0.1,-3,"text",true],[1,2,null,4,null,null]]}}"#,
        r#"{"dataframe_records":[{"n":1,"a":12345678901234567890},{"n":-0,"a":-0}]}"#,
        " {\n\"dataframe_records\" :\t[ { \"a\" : 1 , \"n\" : 2 } ] }\r\n",
        r#"{"dataframe_split":{"columns":["a","n"],"data":[]}}"#,
    ] {
        assert!(reads_alike(body.as_bytes(), &table), "{body}");
    }
    for dtype in ["float64", "float32"] {
        assert!(reads_alike(br#"{"inputs":[[1,2.5,-3e-2],[null,0.1,0]]}"#, &tensor(dtype)), "{dtype}");
    }
    assert!(reads_alike(br#"{"instances":[[1,2,-3]]}"#, &tensor("int64")));
    assert!(reads_alike(br#"{"instances":[[1,2,-3]]}"#, &tensor("int32")));
}

#[test]
fn a_member_that_stands_twice_is_refused_whoever_reads() {
    for body in [
        r#"{"dataframe_split":{"columns":["a","n"],"index":[0],"index":[0],"data":[[1,2]]}}"#,
        r#"{"dataframe_split":{"columns":[],"columns":["a","n"],"data":[[1,2]]}}"#,
        r#"{"dataframe_split":{"columns":["a","n"],"data":[[1,2]],"data":[[1,2]]}}"#,
        r#"{"dataframe_split":{"columns":["a","n"],"data":[]},"dataframe_split":{"columns":["a","n"],"data":[]}}"#,
        r#"{"dataframe_records":[{"a":1,"n":2,"a":1}]}"#,
        r#"{"dataframe_records":[{"a":1,"n":2},{"a":1,"n":2,"n":2}]}"#,
    ] {
        let fault = check(body.as_bytes(), ContentType::Json, &columns()).unwrap_err();
        assert_eq!(fault.code, code::DUPLICATE_MEMBER, "{body}");
    }
}

#[test]
fn bodies_of_very_many_columns_are_read_in_linear_time() {
    let names: Vec<String> = (0..200_000).map(|n| format!("\"c{n}\"")).collect();
    let split = format!(r#"{{"dataframe_split":{{"columns":[{}],"data":[]}}}}"#, names.join(","));
    assert!(refused(&columns(), &split).contains("no such column"));
    // Each record names its members in the opposite order of the one before.
    let record = |reversed: bool| {
        let mut members: Vec<String> = names.iter().take(4000).map(|name| format!("{name}:0")).collect();
        if reversed {
            members.reverse();
        }
        format!("{{{}}}", members.join(","))
    };
    let records: Vec<String> = (0..100).map(|row| record(row % 2 == 1)).collect();
    assert!(
        refused(&columns(), &format!(r#"{{"instances":[{}]}}"#, records.join(",")))
            .contains("no such column")
    );
    let twice = r#"{"dataframe_split":{"columns":["a","n","a"],"data":[]}}"#;
    assert_eq!(refused(&columns(), twice), "column `a` stands twice");
}

/// A cell of any kind, right and wrong ones.
fn cell() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => any::<f64>().prop_map(|value| format!("{value:?}")),
        4 => any::<f64>().prop_map(|value| format!("{value:e}")),
        4 => any::<i64>().prop_map(|value| value.to_string()),
        2 => any::<i32>().prop_map(|value| value.to_string()),
        2 => "-?[0-9]{1,25}(\\.[0-9]{0,25})?([eE][+-]?[0-9]{0,3})?",
        1 => "null|true|false|\"[a-z\u{e4}]{0,5}\"|\"\\\\n\"|\\[1\\]|\\{\\}|nul|\"",
    ]
}

proptest! {
    #[test]
    fn no_body_makes_the_checker_panic(body in ".{0,200}") {
        let _ = check(body.as_bytes(), ContentType::Json, &columns());
        let _ = check(body.as_bytes(), ContentType::Csv, &columns());
        let wrapped = format!("{{\"inputs\":{body}}}");
        let _ = check(wrapped.as_bytes(), ContentType::Json, &columns());
    }

    #[test]
    fn one_pass_reads_what_the_careful_reader_reads(
        rows in prop::collection::vec(prop::collection::vec(cell(), 1..5), 0..4),
        names in prop::collection::vec("[anfisbx]", 1..5),
        change in (any::<prop::sample::Index>(), prop::option::of(any::<u8>())),
    ) {
        let table = Signature::parse(Some(PLAIN), None).unwrap();
        let lists: Vec<String> = rows.iter().map(|row| format!("[{}]", row.join(", "))).collect();
        let lists = lists.join(",");
        let named: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
        let records: Vec<String> = rows
            .iter()
            .map(|row| named.iter().zip(row).map(|(name, cell)| format!("{name}: {cell}")).collect::<Vec<_>>())
            .map(|members| format!("{{{}}}", members.join(",")))
            .collect();
        for body in [
            format!(r#"{{"dataframe_split":{{"columns":[{}],"data":[{lists}]}}}}"#, named.join(",")),
            format!(r#"{{"dataframe_records":[{}]}}"#, records.join(",")),
            format!(r#"{{"inputs":[{lists}]}}"#),
        ] {
            let mut changed = body.clone().into_bytes();
            let place = change.0.index(changed.len());
            match change.1 {
                Some(byte) => changed[place] = byte,
                None => drop(changed.remove(place)),
            }
            for body in [body.as_bytes(), &changed] {
                reads_alike(body, &table);
                for dtype in ["float64", "float32", "int64", "int32"] {
                    reads_alike(body, &tensor(dtype));
                }
            }
        }
    }
}
