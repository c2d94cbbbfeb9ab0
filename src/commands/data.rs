//! `kaleid data`

use anyhow::{Result, bail};
use kaleid::data::check::{Counts, Found, Lines};
use kaleid::data::printable;
use kaleid::progress::Progress;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Check a data set before anything depends on it
///
/// Example: kaleid data check PACS --extra runs/pacs/images
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Say what a data set contains, and what is wrong with it: one line per problem, and exit code 2
    Check(Check),
}

#[derive(clap::Args)]
struct Check {
    /// Data set: ROOT/DOMAIN/CLASS/image
    #[arg(value_name = "ROOT")]
    data: PathBuf,
    /// Generated images: DIR/DOMAIN/CLASS/image; none may be a copy of an original
    #[arg(long, value_name = "DIR")]
    extra: Option<PathBuf>,
    /// Print one JSON object instead of tables
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    let Command::Check(args) = args.command;
    let mut found = Found::list(&args.data, args.extra.as_deref())?;
    let progress = Progress::new("check", found.images() as u64, "images");
    found.read(|| progress.inc(1));
    progress.finish();
    if args.json {
        say!(
            "{}",
            json!({"dataset": found.known, "domains": tree(&found.domains), "extra": tree(&found.added),
                "problems": found.problems.all().collect::<Vec<_>>(), "notes": found.notes.all().collect::<Vec<_>>(),
                "kinds": counts(&found.problems), "kinds_of_notes": counts(&found.notes)})
        )?;
    } else {
        say!("{}: {}", args.data.display(), found.known.unwrap_or("no data set known by name"))?;
        table(&found.domains)?;
        if let Some(extra) = &args.extra {
            say!("\n{}: generated images", extra.display())?;
            table(&found.added)?;
        }
        print("note", &found.notes)?;
        print("wrong", &found.problems)?;
    }
    match found.problems.len() {
        0 => Ok(()),
        1 => bail!("{}: one thing is wrong", args.data.display()),
        n => bail!("{}: {n} things are wrong", args.data.display()),
    }
}

/// The first lines of each kind, and how many more there are.
fn print(word: &str, lines: &Lines) -> Result<()> {
    const SHOWN: usize = 8;
    for (kind, lines) in lines.kinds() {
        for line in lines.iter().take(SHOWN) {
            say!("{word}: {}", printable(line))?;
        }
        if let more @ 1.. = lines.len().saturating_sub(SHOWN) {
            say!("{word}: {kind}: {} in all, {more} more than these (--json names them)", lines.len())?;
        }
    }
    Ok(())
}

/// Number of lines of each kind.
fn counts(lines: &Lines) -> BTreeMap<&'static str, usize> {
    lines.kinds().map(|(kind, lines)| (kind, lines.len())).collect()
}

/// Domains as JSON.
fn tree(domains: &BTreeMap<String, Counts>) -> Value {
    let row = |(name, c): (&String, &Counts)| {
        (name.clone(), json!({"images": c.values().sum::<usize>(), "classes": c}))
    };
    domains.iter().map(row).collect()
}

/// Images of each class (rows) in each domain (columns).
fn table(domains: &BTreeMap<String, Counts>) -> Result<()> {
    let mut classes: Vec<&String> = domains.values().flat_map(BTreeMap::keys).collect();
    classes.sort();
    classes.dedup();
    let wide = |names: &mut dyn Iterator<Item = &String>, least| {
        names.map(|n| n.chars().count()).fold(least, usize::max)
    };
    let first = wide(&mut classes.iter().copied(), 5);
    let widths: Vec<usize> = domains.keys().map(|d| wide(&mut [d].into_iter(), 6)).collect();
    let row = |name: &str, cells: Vec<String>| {
        let cells: String = cells.iter().zip(&widths).map(|(c, w)| format!("  {c:>w$}")).collect();
        say!("{name:first$}{cells}")
    };
    row("", domains.keys().cloned().collect())?;
    for class in classes {
        row(class, domains.values().map(|c| c.get(class).map_or("-".into(), usize::to_string)).collect())?;
    }
    row("all", domains.values().map(|c| c.values().sum::<usize>().to_string()).collect())
}
