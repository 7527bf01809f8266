//! The configuration file, in all of its forms. A document with problems says where they are.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    // YAML's line ends.
    let lines = text.matches(['\n', '\r']).count() as u64 + 1;
    if let Err(problems) = millgate_config::load(text) {
        assert!(!problems.is_empty());
        for problem in problems {
            assert!(!problem.reason.is_empty() && problem.line <= lines, "{}", problem.in_file("f"));
        }
    }
});
