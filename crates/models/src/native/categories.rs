//! Columns of pandas' type `category`: a model knows their words by number, in the order in which training met them.

use std::collections::HashMap;

use serde_json::Value;

/// The words of one column.
#[derive(Debug)]
pub(super) struct Words(HashMap<String, u32>);

impl Words {
    /// The words in their order. Error: one stands twice.
    pub(super) fn new(words: Vec<String>) -> Result<Self, String> {
        let count = words.len();
        let words: HashMap<_, _> = words.into_iter().zip(0..).collect();
        if words.len() == count { Ok(Self(words)) } else { Err("a category that stands twice".to_owned()) }
    }

    /// A word's number.
    pub(super) fn number(&self, word: &str) -> Option<u32> {
        self.0.get(word).copied()
    }
}

/// The words of a LightGBM booster's columns. `text` is the JSON behind `pandas_categorical:`, a list of lists in the order of
/// the categorical columns; `infos` say what each feature is: `[least:largest]`, `none`, or numbers of categories.
pub(super) fn of_lightgbm(text: &str, infos: &str, features: usize) -> Result<Vec<Option<Words>>, String> {
    let mut lists: std::vec::IntoIter<Vec<Value>> = serde_json::from_str::<Vec<Vec<Value>>>(text)
        .map_err(|_| "categorical columns that cannot be read")?
        .into_iter();
    let infos: Vec<&str> = infos.split(' ').collect();
    let is_category = |info: &&str| info.contains(':') && !info.starts_with('[');
    if infos.len() != features || infos.iter().filter(|info| is_category(info)).count() != lists.len() {
        return Err("categorical columns whose place is not told".to_owned());
    }
    let words = infos.iter().map(|info| {
        if !is_category(info) {
            return Ok(None);
        }
        let words = lists.next().unwrap_or_default().into_iter().map(|word| match word {
            Value::String(word) => Ok(word),
            _ => Err("categories that are not texts".to_owned()),
        });
        Words::new(words.collect::<Result<_, _>>()?).map(Some)
    });
    words.collect()
}

/// The words of an XGBoost model's columns: `enc` has for each feature where its words end in a run of bytes. `kinds` are
/// the features' types, `c` for categories.
pub(super) fn of_xgboost(
    enc: Option<&Value>,
    kinds: &[Value],
    features: usize,
) -> Result<Vec<Option<Words>>, String> {
    let encodings = enc.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let is_category = |feature: usize| kinds.get(feature).is_some_and(|kind| kind == "c");
    if encodings.is_empty() {
        let known = (0..features).any(is_category);
        return if known { Err("categorical features".to_owned()) } else { Ok(Vec::new()) };
    }
    if encodings.len() != features {
        return Err("category encodings that do not fit the features".to_owned());
    }
    let words = encodings.iter().enumerate().map(|(feature, encoding)| {
        let list = |name: &str| encoding.get(name).and_then(Value::as_array).map(Vec::as_slice);
        let values = list("values").unwrap_or_default();
        match (is_category(feature), list("offsets")) {
            (false, _) if values.is_empty() => Ok(None),
            (true, Some(offsets)) => Words::new(cut(values, offsets)?).map(Some),
            (true, None) => Err("categories that are not texts".to_owned()),
            (false, _) => Err("category encodings of a feature that has none".to_owned()),
        }
    });
    words.collect()
}

fn cut(values: &[Value], offsets: &[Value]) -> Result<Vec<String>, String> {
    let broken = || "category encodings that cannot be read".to_owned();
    // XGBoost 3.2 counts characters where it means bytes: words that are not ASCII are cut off by it.
    let byte = |value: &Value| {
        let byte = value.as_i64().and_then(|value| u8::try_from(value).ok()).filter(u8::is_ascii);
        byte.ok_or_else(|| "categories that are not ASCII".to_owned())
    };
    let bytes = values.iter().map(byte).collect::<Result<Vec<_>, _>>()?;
    let place =
        |value: &Value| value.as_u64().and_then(|value| usize::try_from(value).ok()).ok_or_else(broken);
    let offsets = offsets.iter().map(place).collect::<Result<Vec<_>, _>>()?;
    let word = |ends: &[usize]| {
        let &[start, end] = ends else { return Err(broken()) };
        let word = bytes.get(start..end).ok_or_else(broken)?;
        String::from_utf8(word.to_vec()).map_err(|_| broken())
    };
    offsets.windows(2).map(word).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn words_are_told_by_their_column_and_order() {
        let words = of_lightgbm(r#"[["b","a"],["x"]]"#, "[0:1] -1:0:1 none 0:1", 4).unwrap();
        let number = |column: usize, word: &str| words[column].as_ref().and_then(|words| words.number(word));
        assert_eq!((number(1, "b"), number(1, "a"), number(3, "x")), (Some(0), Some(1), Some(0)));
        assert!(words[0].is_none() && words[2].is_none() && number(1, "x").is_none());
        for (text, infos) in [
            (r#"[["a"]]"#, "0:1 0:1"),
            (r#"[["a"],["b"]]"#, "0:1 none"),
            (r#"[["a"],[1]]"#, "0:1 0:1"),
            (r#"[["a"],["b","b"]]"#, "0:1 0:1"),
            ("{}", "0:1 0:1"),
        ] {
            assert!(of_lightgbm(text, infos, 2).is_err(), "{text} {infos}");
        }
        let kinds = [json!("c"), json!("float")];
        let none = json!({ "offsets": [], "values": [] });
        let enc = |offsets: Value| json!([{ "offsets": offsets, "values": [97, 98, 99] }, none]);
        let words = of_xgboost(Some(&enc(json!([0, 1, 3]))), &kinds, 2).unwrap();
        assert_eq!(words[0].as_ref().unwrap().number("bc"), Some(1));
        let cut = json!([{ "offsets": [0, 1], "values": [-61, -87] }, none]);
        assert!(of_xgboost(Some(&cut), &kinds, 2).unwrap_err().contains("not ASCII"));
        for broken in [json!([0, 9]), json!([2, 1]), json!([-1, 1]), json!([0, 1, 1, 1])] {
            assert!(of_xgboost(Some(&enc(broken)), &kinds, 2).is_err());
        }
        assert!(of_xgboost(Some(&json!([{ "values": [1, 2] }, none])), &kinds, 2).is_err());
        assert!(of_xgboost(None, &kinds, 2).is_err());
        assert!(of_xgboost(None, &kinds[1..], 1).unwrap().is_empty());
    }
}
