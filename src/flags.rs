//! Settings that are written once: a struct whose fields are the flags of a command and the keys of a table of run.toml. The comment of
//! a field is its help text, and what clap takes for a flag that is not given is its default.

/// The settings of a command line that has only the flags `given`.
///
/// # Panics
/// `given` lacks a flag that is required, or holds one that `T` does not have.
pub fn parse<T: clap::Args>(given: &[&str]) -> T {
    let command = T::augment_args(clap::Command::new("settings").no_binary_name(true));
    let parsed = command.try_get_matches_from(given).and_then(|matches| T::from_arg_matches(&matches));
    parsed.unwrap_or_else(|e| panic!("{e}"))
}
