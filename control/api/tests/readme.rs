//! The README prints the table of what is not implemented, and nothing else between its marks.
//!
//! `KERNELET_UPDATE=1` writes it anew.

use kernelet_api::unimplemented;
use std::{env, fs, path::Path};

const BEGIN: &str = "<!-- unimplemented -->\n";
const END: &str = "<!-- /unimplemented -->\n";

#[test]
fn the_readme_prints_the_table_of_what_is_not_implemented() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md");
    let readme = fs::read_to_string(&path).expect("the README is there");
    let (before, rest) = readme
        .split_once(BEGIN)
        .expect("the README has the mark where the table begins");
    let (table, after) = rest
        .split_once(END)
        .expect("the README has the mark where the table ends");
    let want = unimplemented::markdown();
    if env::var_os("KERNELET_UPDATE").is_some() {
        fs::write(&path, format!("{before}{BEGIN}{want}{END}{after}"))
            .expect("the README can be written");
    } else {
        assert_eq!(table, want, "run this test with KERNELET_UPDATE=1");
    }
}
