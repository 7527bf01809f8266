//! Words of a text as scikit-learn's `CountVectorizer` and `TfidfVectorizer` count and weigh them.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::transform::{Cell, Row};

/// A vectorizer with its vocabulary.
#[derive(Debug)]
pub(super) struct Words {
    pub(super) lowercase: bool,
    /// Words in a term: at least, at most.
    pub(super) grams: (usize, usize),
    pub(super) stop: HashSet<String>,
    pub(super) terms: HashMap<String, u32>,
    pub(super) binary: bool,
    /// Ranges of the characters that words are made of, as the model's Python knows them, by rising start.
    pub(super) letters: Vec<(u32, u32)>,
    pub(super) weights: Option<Weights>,
}

/// What `TfidfTransformer` does to counts.
#[derive(Debug)]
pub(super) struct Weights {
    pub(super) idf: Option<Vec<f64>>,
    pub(super) sublinear: bool,
    pub(super) norm: Option<Norm>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Norm {
    Sum,
    Euclid,
}

impl Words {
    pub(super) fn width(&self) -> u32 {
        self.terms.len() as u32
    }

    /// Appends the counted and weighed terms of a text.
    pub(super) fn count(&self, text: &str, from: u32, out: &mut Row<'_>) {
        let lower;
        let text = if self.lowercase {
            lower = text.to_lowercase();
            lower.as_str()
        } else {
            text
        };
        let words: Vec<&str> = self.split(text).filter(|word| !self.stop.contains(*word)).collect();
        let mut counts: BTreeMap<u32, f64> = BTreeMap::new();
        let mut add = |term: &str| {
            if let Some(place) = self.terms.get(term) {
                *counts.entry(*place).or_default() += 1.0;
            }
        };
        let mut term = String::new();
        for grams in self.grams.0..=self.grams.1.min(words.len()) {
            if grams == 1 {
                for word in &words {
                    add(word);
                }
                continue;
            }
            for window in words.windows(grams.max(1)) {
                term.clear();
                for (index, word) in window.iter().enumerate() {
                    if index > 0 {
                        term.push(' ');
                    }
                    term.push_str(word);
                }
                add(&term);
            }
        }
        let start = out.len();
        out.extend(
            counts
                .into_iter()
                .map(|(place, count)| (from + place, Cell::Number(if self.binary { 1.0 } else { count }))),
        );
        if let Some(weights) = &self.weights {
            weights.apply(&mut out[start..], from);
        }
    }

    /// The runs of two letters and more: `\b\w\w+\b`.
    fn split<'t>(&self, text: &'t str) -> impl Iterator<Item = &'t str> {
        text.split(|letter| !self.is_letter(letter)).filter(|word| word.chars().nth(1).is_some())
    }

    fn is_letter(&self, letter: char) -> bool {
        if letter.is_ascii() {
            return letter.is_ascii_alphanumeric() || letter == '_';
        }
        let point = u32::from(letter);
        let after = self.letters.partition_point(|(start, _)| *start <= point);
        after.checked_sub(1).and_then(|index| self.letters.get(index)).is_some_and(|(_, end)| point <= *end)
    }
}

impl Weights {
    /// Weighs the features of one row.
    pub(super) fn apply(&self, cells: &mut [(u32, Cell<'_>)], from: u32) {
        let mut each = |change: &mut dyn FnMut(u32, f64) -> f64| {
            for (place, cell) in cells.iter_mut() {
                if let Cell::Number(value) = cell {
                    *value = change(*place - from, *value);
                }
            }
        };
        if self.sublinear {
            each(&mut |_, value| value.ln() + 1.0);
        }
        if let Some(idf) = &self.idf {
            each(&mut |place, value| value * idf.get(place as usize).copied().unwrap_or(0.0));
        }
        let Some(norm) = self.norm else { return };
        let mut sum = 0.0;
        each(&mut |_, value| {
            sum += match norm {
                Norm::Sum => value.abs(),
                Norm::Euclid => value * value,
            };
            value
        });
        if sum > 0.0 {
            let length = match norm {
                Norm::Sum => sum,
                Norm::Euclid => sum.sqrt(),
            };
            each(&mut |_, value| value / length);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_cut_as_python_cuts_them() {
        let words = Words {
            lowercase: true,
            grams: (1, 2),
            stop: HashSet::from(["the".to_owned()]),
            terms: ["größe", "größe wert", "it", "wert"].into_iter().map(str::to_owned).zip(0..).collect(),
            binary: false,
            letters: vec![(0xC0, 0x24F)],
            weights: None,
        };
        let mut row = Row::new();
        words.count("Die GRÖSSE? Größe-the WERT, it's größe", 10, &mut row);
        let count = |place, count| (place, Cell::Number(count));
        assert_eq!(row, [count(10, 2.0), count(11, 1.0), count(12, 1.0), count(13, 1.0)]);
    }
}
