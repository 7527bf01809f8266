//! Trees as flat nodes: the one walk behind XGBoost, LightGBM and scikit-learn. Each reader says how its trees split; what
//! is kept is "left when the value is at most the threshold, or missing and missing goes left".
//!
//! Siblings stand beside each other and a leaf leads to itself, so that a step needs no branch: `left + (went right)`.
//! Eight rows walk a tree side by side that way. However rows are walked, each adds its leaves in the trees' order: the
//! sums are the same to the last bit.

use std::ops::AddAssign;

/// A value that trees compare: `f32` or `f64`.
pub(super) trait Number: Copy + PartialOrd + Default + Sync + Send {
    const INFINITY: Self;
    fn missing(self) -> bool;
    /// The number as a category; `None` when it is below 0 or too large to be one.
    fn category(self) -> Option<usize>;
    /// A small number, exactly.
    fn small(value: u16) -> Self;
}

macro_rules! number {
    ($kind:ident) => {
        impl Number for $kind {
            const INFINITY: Self = $kind::INFINITY;
            fn missing(self) -> bool {
                self.is_nan()
            }
            fn category(self) -> Option<usize> {
                (self > -1.0 && self < 1e6).then_some(self as usize)
            }
            fn small(value: u16) -> Self {
                value.into()
            }
        }
    };
}
number!(f32);
number!(f64);

/// How a tree's file describes one node.
pub(super) enum Split<T> {
    /// The place of its values among the tree's leaves.
    Leaf(usize),
    /// Left when the value is at most the threshold.
    AtMost { feature: usize, threshold: T, missing_left: bool, left: usize, right: usize },
    /// Left when the value is one of a set.
    OneOf { feature: usize, set: Vec<u32>, missing_left: bool, left: usize, right: usize },
}

#[derive(Clone, Copy, Debug)]
struct Node<T> {
    /// In a split by category: the number of its set.
    threshold: T,
    /// With the flags below.
    feature: u32,
    /// The right child is the next one. A leaf leads to itself.
    left: u32,
}

const MISSING_LEFT: u32 = 1 << 31;
const CATEGORY: u32 = 1 << 30;
const FEATURE: u32 = CATEGORY - 1;

/// Rows that go through one tree before the next tree is looked at.
const BLOCK: usize = 128;
/// Rows that walk side by side.
const LANES: usize = 8;
/// Steps between two looks whether all of them have arrived.
const STEPS: u32 = 2;
/// Nodes of all trees together.
const MOST_NODES: usize = 1 << 28;

#[derive(Clone, Debug)]
struct Tree {
    nodes: std::ops::Range<usize>,
    /// Steps from the root to the deepest leaf.
    depth: u32,
    /// The output that a leaf of one value adds to.
    output: usize,
}

/// Trees that look at values `T` and add up leaves `V`.
#[derive(Debug)]
pub(super) struct Forest<T, V> {
    nodes: Vec<Node<T>>,
    /// For each node: its leaf's place in `values`, in leaves.
    leaves: Vec<u32>,
    values: Vec<V>,
    /// Values of a leaf: 1, or one for each output.
    width: usize,
    trees: Vec<Tree>,
    /// Bits of categories, by number.
    sets: Vec<Vec<u32>>,
    features: usize,
}

impl<T: Number, V: Copy + AddAssign> Forest<T, V> {
    /// No trees yet, for rows of `features` values and leaves of `width`.
    pub(super) fn new(features: usize, width: usize) -> Result<Self, String> {
        if features == 0 || features > FEATURE as usize || width == 0 {
            return Err("sizes out of range".to_owned());
        }
        Ok(Self {
            nodes: Vec::new(),
            leaves: Vec::new(),
            values: Vec::new(),
            width,
            trees: Vec::new(),
            sets: Vec::new(),
            features,
        })
    }

    pub(super) fn trees(&self) -> usize {
        self.trees.len()
    }

    pub(super) fn features(&self) -> usize {
        self.features
    }

    /// Adds a tree of `size` nodes, the first of which is the root. `split` reads one. Each node must be reached once, so
    /// that a forged file can neither loop nor lead outside.
    pub(super) fn add_tree(
        &mut self,
        size: usize,
        leaves: &[V],
        output: usize,
        split: impl Fn(usize) -> Result<Split<T>, String>,
    ) -> Result<(), String> {
        let start = self.nodes.len();
        if size == 0 || start + size > MOST_NODES {
            return Err("a tree without nodes, or too many".to_owned());
        }
        let first_leaf = self.values.len() / self.width;
        self.values.extend_from_slice(leaves);
        let leaf_count = leaves.len() / self.width;
        let mut seen = vec![false; size];
        let blank = Node { threshold: T::INFINITY, feature: MISSING_LEFT, left: 0 };
        self.nodes.push(blank);
        self.leaves.push(0);
        // (node of the file, its place here, its depth)
        let mut open = vec![(0_usize, 0_u32, 0_u32)];
        let mut depth = 0;
        while let Some((index, place, level)) = open.pop() {
            match seen.get_mut(index) {
                Some(seen) if !*seen => *seen = true,
                Some(_) => return Err("a tree with a node reached twice".to_owned()),
                None => return Err("a tree with a child that does not exist".to_owned()),
            }
            let here = start + place as usize;
            let (feature, threshold, flags, left, right) = match split(index)? {
                Split::Leaf(leaf) => {
                    if leaf >= leaf_count {
                        return Err("a tree with a leaf that does not exist".to_owned());
                    }
                    self.nodes[here] = Node { left: place, ..blank };
                    self.leaves[here] =
                        u32::try_from(first_leaf + leaf).map_err(|_| "too many leaves".to_owned())?;
                    depth = depth.max(level);
                    continue;
                }
                Split::AtMost { feature, threshold, missing_left, left, right } => {
                    if threshold.missing() {
                        return Err("a threshold that is not a number".to_owned());
                    }
                    (feature, threshold, if missing_left { MISSING_LEFT } else { 0 }, left, right)
                }
                Split::OneOf { feature, set, missing_left, left, right } => {
                    let number = u16::try_from(self.sets.len()).map_err(|_| "too many sets of categories")?;
                    self.sets.push(set);
                    let flags = if missing_left { MISSING_LEFT | CATEGORY } else { CATEGORY };
                    (feature, T::small(number), flags, left, right)
                }
            };
            if feature >= self.features {
                return Err("a split on a feature that does not exist".to_owned());
            }
            let pair = (self.nodes.len() - start) as u32;
            self.nodes[here] = Node { threshold, feature: feature as u32 | flags, left: pair };
            self.nodes.extend([blank, blank]);
            self.leaves.extend([0, 0]);
            if self.nodes.len() - start > size {
                return Err("a tree with a node reached twice".to_owned());
            }
            open.extend([(right, pair + 1, level + 1), (left, pair, level + 1)]);
        }
        self.trees.push(Tree { nodes: start..self.nodes.len(), depth, output });
        Ok(())
    }

    /// Adds each row's leaves to its sums, tree after tree. `rows` has `features` values a row, `sums` has `outputs`.
    pub(super) fn add_up(&self, rows: &[T], sums: &mut [V], outputs: usize) {
        let blocks = rows.chunks(BLOCK * self.features).zip(sums.chunks_mut(BLOCK * outputs));
        for (rows, sums) in blocks {
            let whole = !rows.iter().any(|value| value.missing());
            let together = if whole { walk_together::<T, true> } else { walk_together::<T, false> };
            for tree in &self.trees {
                self.add_tree_of(tree, rows, sums, outputs, together);
            }
        }
    }

    fn add_tree_of(
        &self,
        tree: &Tree,
        rows: &[T],
        sums: &mut [V],
        outputs: usize,
        together: impl Fn(&[Node<T>], u32, &[T], usize) -> [u32; LANES],
    ) {
        let nodes = &self.nodes[tree.nodes.clone()];
        let leaves = &self.leaves[tree.nodes.clone()];
        let add = |sums: &mut [V], at: u32| {
            let first = leaves[at as usize] as usize * self.width;
            if self.width == 1 {
                sums[tree.output] += self.values[first];
            } else {
                for (sum, value) in sums.iter_mut().zip(&self.values[first..first + self.width]) {
                    *sum += *value;
                }
            }
        };
        let mut rest = (rows, sums);
        if self.sets.is_empty() {
            while rest.0.len() >= LANES * self.features {
                let (group, rows) = rest.0.split_at(LANES * self.features);
                let (mut group_sums, sums) = rest.1.split_at_mut(LANES * outputs);
                for at in together(nodes, tree.depth, group, self.features) {
                    let (first, others) = group_sums.split_at_mut(outputs);
                    add(first, at);
                    group_sums = others;
                }
                rest = (rows, sums);
            }
        }
        for (row, sums) in rest.0.chunks_exact(self.features).zip(rest.1.chunks_exact_mut(outputs)) {
            add(sums, self.walk(nodes, row));
        }
    }

    fn walk(&self, nodes: &[Node<T>], row: &[T]) -> u32 {
        let mut at = 0;
        loop {
            let node = &nodes[at as usize];
            if node.left == at {
                return at;
            }
            let value = row[(node.feature & FEATURE) as usize];
            let left = if value.missing() {
                node.feature & MISSING_LEFT != 0
            } else if node.feature & CATEGORY != 0 {
                let set = node.threshold.category().and_then(|set| self.sets.get(set));
                set.zip(value.category()).is_some_and(|(set, category)| {
                    set.get(category / 32).is_some_and(|word| word >> (category % 32) & 1 == 1)
                })
            } else {
                value <= node.threshold
            };
            at = node.left + u32::from(!left);
        }
    }
}

/// Eight rows to the leaves of one tree. `WHOLE`: none of their values is missing.
#[expect(clippy::needless_bitwise_bool, reason = "no branch: that is the point")]
fn walk_together<T: Number, const WHOLE: bool>(
    nodes: &[Node<T>],
    depth: u32,
    rows: &[T],
    features: usize,
) -> [u32; LANES] {
    let mut at = [0_u32; LANES];
    for _ in 0..depth.div_ceil(STEPS) {
        let before = at;
        for _ in 0..STEPS {
            for (lane, at) in at.iter_mut().enumerate() {
                let node = &nodes[*at as usize];
                let value = rows[lane * features + (node.feature & FEATURE) as usize];
                let right = if WHOLE {
                    value > node.threshold
                } else {
                    !((value <= node.threshold) | (value.missing() & (node.feature & MISSING_LEFT != 0)))
                };
                // A leaf leads to itself: no step leaves the tree.
                *at = node.left.wrapping_add(u32::from(right));
            }
        }
        if at == before {
            break;
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree in a file: `[feature, threshold * 10, left, right]`, a leaf with `left` below 0.
    fn forest(nodes: &[[i64; 4]], leaves: &[f64]) -> Result<Forest<f64, f64>, String> {
        let mut forest = Forest::new(3, 1)?;
        forest.add_tree(nodes.len(), leaves, 0, |index| {
            let [feature, threshold, left, right] = nodes[index];
            if left < 0 {
                return Ok(Split::Leaf((-left - 1) as usize));
            }
            Ok(Split::AtMost {
                feature: feature as usize,
                threshold: if threshold == 99 { f64::NAN } else { threshold as f64 / 10.0 },
                missing_left: index % 2 == 0,
                left: left as usize,
                right: right as usize,
            })
        })?;
        Ok(forest)
    }

    const WHOLE: [[i64; 4]; 5] = [[0, 5, 1, 2], [1, -5, 3, 4], [0, 0, -1, 0], [0, 0, -2, 0], [0, 0, -3, 0]];

    #[test]
    fn a_forged_tree_is_refused() {
        assert!(forest(&WHOLE, &[1.0, 2.0, 3.0]).is_ok());
        for (place, node) in [
            (1, [1, -5, 0, 4]),
            (1, [1, -5, 1, 4]),
            (1, [1, -5, 4, 4]),
            (1, [1, -5, 3, 5]),
            (1, [3, -5, 3, 4]),
            (1, [1, 99, 3, 4]),
            (4, [0, 0, -4, 0]),
            (4, [0, 0, i64::MIN + 1, 0]),
        ] {
            let mut forged = WHOLE;
            forged[place] = node;
            assert!(forest(&forged, &[1.0, 2.0, 3.0]).is_err(), "{node:?}");
        }
        assert!(forest(&[], &[]).is_err());
    }

    #[test]
    fn rows_side_by_side_end_where_single_ones_do() {
        let forest = forest(&WHOLE, &[1.0, 2.0, 4.0]).unwrap();
        let odd = [0.5, 0.5_f64.next_up(), 0.5_f64.next_down(), -0.5, f64::NAN, 9.0, f64::INFINITY, -0.0];
        let rows: Vec<f64> = (0..300 * 3).map(|n| odd[(n * n + n / 7) % odd.len()]).collect();
        let mut together = vec![0.0; 300];
        forest.add_up(&rows, &mut together, 1);
        for (row, sum) in rows.chunks(3).zip(&together) {
            let mut single = [0.0];
            forest.add_up(row, &mut single, 1);
            assert_eq!(single[0].to_bits(), sum.to_bits(), "{row:?}");
        }
        assert!(together.contains(&1.0) && together.contains(&2.0) && together.contains(&4.0));
    }

    #[test]
    fn categories_outside_the_set_go_right() {
        let mut forest: Forest<f32, f32> = Forest::new(1, 1).unwrap();
        let set = vec![0b1010];
        let split = |index| match index {
            0 => Split::OneOf { feature: 0, set: set.clone(), missing_left: true, left: 1, right: 2 },
            leaf => Split::Leaf(leaf - 1),
        };
        forest.add_tree(3, &[1.0, 2.0], 0, |index| Ok(split(index))).unwrap();
        let mut sums = [0.0; 7];
        forest.add_up(&[1.0, 3.0, 0.0, 40.0, -1.0, f32::NAN, 1e30], &mut sums, 1);
        assert_eq!(sums.map(|sum| sum as i32), [1, 1, 2, 2, 2, 1, 2]);
    }
}
