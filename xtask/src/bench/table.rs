//! The page.

use std::fmt::Write as _;

/// Rows of figures: ours, the other one's, and how many times.
#[derive(Default)]
pub(super) struct Table {
    rows: Vec<Row>,
}

struct Row {
    what: String,
    ours: String,
    other: String,
    ratio: Option<f64>,
}

/// Small ratios as parts of one: `1/244` says more than `0.00`.
fn shown(ratio: f64) -> String {
    if ratio < 0.1 { format!("1/{:.0}", 1.0 / ratio) } else { format!("{ratio:.2}") }
}

impl Table {
    pub(super) fn row(&mut self, what: &str, ours: String, other: String, ratio: Option<f64>) {
        crate::shell::say(&format!("  {what}: {ours} | {other} | {}", ratio.map_or("-".to_owned(), shown)));
        self.rows.push(Row { what: what.to_owned(), ours, other, ratio });
    }

    pub(super) fn page(&self, machine: &str, rounds: usize, seconds: f64, busy: f64) -> String {
        // What else runs takes its share of cores and caches.
        let busy = if busy > 0.05 {
            let percent = busy * 100.0;
            format!(
                " **Other work took {percent:.0} % of the CPU just before this run: its figures are disturbed.**"
            )
        } else {
            String::new()
        };
        let mut out = format!(
            "# Benchmarks\n\nWritten by `cargo xtask bench` on a {machine}: {rounds} rounds of {seconds} s, medians. A mock \
             provider and the load generator share one core; the other is Millgate's and nginx's in turns, a quarter of a \
             round each. Millgate is the program of `cargo xtask dist`. CPU is that of the measured process with all its threads and children. Millgate runs with a key \
             check, a rate limit, the model's name replaced, usage counted, metrics and the access log on; nginx is a \
             plain `proxy_pass` with keep-alive and access log. Ratios are medians of the turns' own ratios. Machines \
             differ and drift: only the ratios travel.{busy}\n\n\
             | | Millgate | compared with | ratio |\n|---|---|---|---|\n"
        );
        for Row { what, ours, other, ratio } in &self.rows {
            let ratio = ratio.map_or("-".to_owned(), shown);
            let _written = writeln!(out, "| {what} | {ours} | {other} | {ratio} |");
        }
        out
    }
}
