//! `faultline faults`: the catalogue, from the code that makes the faults.

use proto::catalogue::ENTRIES;

use crate::args::Form;
use crate::exit::Exit;
use crate::output;

pub(crate) fn run(form: Form) -> anyhow::Result<Exit> {
    output::print(form, &ENTRIES, &["KIND", "ACTS ON", "BACKENDS", "REVERTS", "WHAT"], || {
        ENTRIES
            .iter()
            .map(|entry| {
                let names: Vec<_> = entry.backends.iter().map(|b| b.name).collect();
                let classes: std::collections::BTreeSet<_> =
                    entry.backends.iter().map(|b| b.revert.as_str()).collect();
                vec![
                    entry.kind.to_owned(),
                    entry.acts_on.to_owned(),
                    names.join(", "),
                    classes.into_iter().collect::<Vec<_>>().join(", "),
                    entry.summary.to_owned(),
                ]
            })
            .collect()
    })?;
    Ok(Exit::Ok)
}
