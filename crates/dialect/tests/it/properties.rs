//! Properties over generated calls and answers.
