//! What a scikit-learn pipeline does to a row before its last step. A row is the list of its features that are not zero,
//! in order: wide texts and categories cost what is in them.

use std::collections::HashMap;

use super::words::Words;

/// One feature of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Cell<'a> {
    Number(f64),
    Text(&'a str),
    /// A text that is not there.
    Nothing(Absent),
}

/// What Python has where a text is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Absent {
    None,
    Nan,
}

/// Features that are not zero, by rising place.
pub(super) type Row<'a> = Vec<(u32, Cell<'a>)>;

/// Why a row cannot be taken: what Python refuses too. Fit for callers.
pub(super) type Refusal = &'static str;

/// A value in a model's description.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Atom {
    Number(f64),
    Text(String),
    Nothing(Absent),
}

impl Atom {
    fn cell(&self) -> Cell<'_> {
        match self {
            Self::Number(number) => Cell::Number(*number),
            Self::Text(text) => Cell::Text(text),
            Self::Nothing(absent) => Cell::Nothing(*absent),
        }
    }
}

/// A step of a pipeline.
#[derive(Debug)]
pub(super) enum Step {
    Identity,
    /// Each step with the features that come out of it.
    Pipeline(Vec<(Step, u32)>),
    /// Parts side by side: the places that each takes, its step, and how many features come out of it.
    Columns(Vec<(Vec<u32>, Step, u32)>),
    Scale(Scale),
    Impute {
        missing: Atom,
        fills: Vec<Atom>,
    },
    OneHot {
        columns: Vec<Categories>,
        strict: bool,
    },
    Ordinal {
        columns: Vec<Categories>,
        /// `None`: an unknown category is refused.
        unknown: Option<f64>,
        missing: f64,
    },
    Words(Box<Words>),
    Weigh(super::words::Weights),
}

/// Per feature, in this order: subtract, divide, multiply, add; then clip.
#[derive(Debug, Default)]
pub(super) struct Scale {
    pub(super) subtract: Option<Vec<f64>>,
    pub(super) divide: Option<Vec<f64>>,
    pub(super) multiply: Option<Vec<f64>>,
    pub(super) add: Option<Vec<f64>>,
    pub(super) clip: Option<(f64, f64)>,
}

/// The categories of one column.
#[derive(Debug)]
pub(super) struct Categories {
    texts: HashMap<String, u32>,
    numbers: HashMap<u64, u32>,
    none: Option<u32>,
    nan: Option<u32>,
    count: u32,
    /// The category that has no feature of its own.
    dropped: Option<u32>,
}

impl Categories {
    pub(super) fn new(atoms: &[Atom], dropped: Option<u32>) -> Result<Self, String> {
        let count = u32::try_from(atoms.len()).map_err(|_| "too many categories")?;
        let (texts, numbers) = (HashMap::new(), HashMap::new());
        let mut out = Self { texts, numbers, none: None, nan: None, count, dropped };
        for (place, atom) in (0..).zip(atoms) {
            match atom {
                Atom::Number(number) => drop(out.numbers.insert(bits(*number), place)),
                Atom::Text(text) => drop(out.texts.insert(text.clone(), place)),
                Atom::Nothing(Absent::None) => out.none = Some(place),
                Atom::Nothing(Absent::Nan) => out.nan = Some(place),
            }
        }
        if dropped.is_some_and(|place| place >= count) {
            return Err("a dropped category that does not exist".to_owned());
        }
        Ok(out)
    }

    /// Features that one-hot encoding makes.
    pub(super) fn width(&self) -> u32 {
        self.count - u32::from(self.dropped.is_some())
    }

    fn find(&self, cell: Cell<'_>) -> Option<u32> {
        match cell {
            Cell::Number(number) if number.is_nan() => self.nan,
            Cell::Number(number) => self.numbers.get(&bits(number)).copied(),
            Cell::Text(text) => self.texts.get(text).copied(),
            Cell::Nothing(Absent::None) => self.none,
            Cell::Nothing(Absent::Nan) => self.nan,
        }
    }
}

/// The same for equal numbers: the zeros are one.
fn bits(number: f64) -> u64 {
    (number + 0.0).to_bits()
}

/// The feature at a place; what is not in the list is zero.
fn at<'a>(row: &[(u32, Cell<'a>)], place: u32) -> Cell<'a> {
    match row.get(place as usize) {
        Some((found, cell)) if *found == place => *cell,
        _ => match row.binary_search_by_key(&place, |(place, _)| *place) {
            Ok(index) => row[index].1,
            Err(_) => Cell::Number(0.0),
        },
    }
}

const NUMBERS_ONLY: Refusal = "the model takes numbers only";

impl Step {
    /// How many features come out when `width` go in; what does not fit is refused.
    pub(super) fn width(&self, width: u32) -> Result<u32, String> {
        let fits = |length: usize| {
            if length == width as usize { Ok(width) } else { Err("a step that does not fit".to_owned()) }
        };
        match self {
            Self::Identity | Self::Weigh(_) => Ok(width),
            Self::Pipeline(steps) => steps.iter().try_fold(width, |width, (step, made)| {
                if step.width(width)? == *made {
                    Ok(*made)
                } else {
                    Err("a step that does not fit".to_owned())
                }
            }),
            Self::Columns(parts) => parts.iter().try_fold(0_u32, |sum, (places, step, made)| {
                if places.iter().any(|place| *place >= width) {
                    return Err("a column that does not exist".to_owned());
                }
                if step.width(places.len() as u32)? != *made {
                    return Err("a step that does not fit".to_owned());
                }
                sum.checked_add(*made).ok_or_else(|| "too many features".to_owned())
            }),
            Self::Scale(scale) => {
                let lists = [&scale.subtract, &scale.divide, &scale.multiply, &scale.add];
                lists.into_iter().flatten().try_fold(width, |_, list| fits(list.len()))
            }
            Self::Impute { fills, .. } => fits(fills.len()),
            Self::OneHot { columns, .. } => {
                fits(columns.len())?;
                let widths = columns.iter().map(Categories::width);
                widths
                    .into_iter()
                    .try_fold(0_u32, u32::checked_add)
                    .ok_or_else(|| "too many features".to_owned())
            }
            Self::Ordinal { columns, .. } => fits(columns.len()),
            Self::Words(words) => fits(1).map(|_| words.width()),
        }
    }

    /// Appends the features of `row`, their places counted from `from`.
    pub(super) fn apply<'a>(
        &'a self,
        row: &Row<'a>,
        width: u32,
        from: u32,
        out: &mut Row<'a>,
    ) -> Result<(), Refusal> {
        match self {
            Self::Identity => out.extend(row.iter().map(|(place, cell)| (from + place, *cell))),
            Self::Pipeline(steps) => {
                let mut now = row.clone();
                let mut width = width;
                for (step, made) in steps {
                    let mut next = Row::with_capacity(now.len());
                    step.apply(&now, width, 0, &mut next)?;
                    width = *made;
                    now = next;
                }
                out.extend(now.into_iter().map(|(place, cell)| (from + place, cell)));
            }
            Self::Columns(parts) => {
                let mut from = from;
                let mut chosen = Row::new();
                for (places, step, made) in parts {
                    chosen.clear();
                    chosen.extend((0..).zip(places).map(|(place, source)| (place, at(row, *source))));
                    step.apply(&chosen, places.len() as u32, from, out)?;
                    from += made;
                }
            }
            Self::Scale(scale) => scale.apply(row, width, from, out)?,
            Self::Impute { missing, fills } => {
                for (place, fill) in (0..).zip(fills) {
                    let cell = at(row, place);
                    let gone = match (missing, cell) {
                        (Atom::Nothing(missing), Cell::Nothing(absent)) => *missing == absent,
                        (Atom::Nothing(Absent::Nan), Cell::Number(number)) => number.is_nan(),
                        (Atom::Number(missing), Cell::Number(number)) => bits(*missing) == bits(number),
                        (Atom::Text(missing), Cell::Text(text)) => missing == text,
                        _ => false,
                    };
                    if !gone && matches!(cell, Cell::Number(number) if number.is_nan()) {
                        return Err("the model takes no missing numbers");
                    }
                    out.push((from + place, if gone { fill.cell() } else { cell }));
                }
            }
            Self::OneHot { columns, strict } => {
                let mut from = from;
                for (place, column) in (0..).zip(columns) {
                    match column.find(at(row, place)) {
                        None if *strict => return Err("the model knows no such category"),
                        Some(found) if column.dropped != Some(found) => {
                            let shift = u32::from(column.dropped.is_some_and(|dropped| dropped < found));
                            out.push((from + found - shift, Cell::Number(1.0)));
                        }
                        _ => {}
                    }
                    from += column.width();
                }
            }
            Self::Ordinal { columns, unknown, missing } => {
                for (place, column) in (0..).zip(columns) {
                    let cell = at(row, place);
                    let absent = match cell {
                        Cell::Nothing(_) => true,
                        Cell::Number(number) => number.is_nan(),
                        Cell::Text(_) => false,
                    };
                    let code = match (column.find(cell), unknown) {
                        (Some(_), _) if absent => *missing,
                        (Some(code), _) => f64::from(code),
                        (None, Some(unknown)) => *unknown,
                        (None, None) => return Err("the model knows no such category"),
                    };
                    out.push((from + place, Cell::Number(code)));
                }
            }
            Self::Words(words) => {
                let Cell::Text(text) = at(row, 0) else { return Err("the model takes no missing texts") };
                words.count(text, from, out);
            }
            Self::Weigh(weights) => {
                let start = out.len();
                out.extend(row.iter().map(|(place, cell)| (from + place, *cell)));
                weights.apply(&mut out[start..], from);
            }
        }
        Ok(())
    }
}

impl Scale {
    fn apply<'a>(&self, row: &Row<'a>, width: u32, from: u32, out: &mut Row<'a>) -> Result<(), Refusal> {
        let one = |list: &Option<Vec<f64>>, place: u32| {
            list.as_ref().and_then(|list| list.get(place as usize)).copied()
        };
        let mut push = |place: u32, cell: Cell<'a>| {
            let Cell::Number(mut value) = cell else { return Err(NUMBERS_ONLY) };
            if let Some(subtract) = one(&self.subtract, place) {
                value -= subtract;
            }
            if let Some(divide) = one(&self.divide, place) {
                value /= divide;
            }
            if let Some(multiply) = one(&self.multiply, place) {
                value *= multiply;
            }
            if let Some(add) = one(&self.add, place) {
                value += add;
            }
            if let Some((low, high)) = self.clip {
                // A missing number stays missing.
                value = if value < low {
                    low
                } else if value > high {
                    high
                } else {
                    value
                };
            }
            out.push((from + place, Cell::Number(value)));
            Ok(())
        };
        let keeps_zero = self.subtract.is_none() && self.add.is_none() && self.clip.is_none();
        if keeps_zero {
            return row.iter().try_for_each(|(place, cell)| push(*place, *cell));
        }
        (0..width).try_for_each(|place| push(place, at(row, place)))
    }
}
