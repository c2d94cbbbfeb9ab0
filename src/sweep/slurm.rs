//! A sweep on a cluster: scripts for `sbatch`, with one array task per job.

use crate::data::write_atomic;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};

/// Most tasks of one array: Slurm's default (`MaxArraySize` 1001).
const ARRAY: usize = 1000;

/// Writes the scripts for `jobs` jobs into `folder`, the absolute path of the sweep; at most `throttle` tasks of one array run at a time.
/// `options` are the cluster's own, such as `--partition=gpu`.
///
/// # Errors
/// A path that a script cannot hold; a folder that cannot be written.
pub fn write(folder: &Path, jobs: usize, throttle: usize, options: &[String]) -> Result<Vec<PathBuf>> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    if let Some(option) = options.iter().find(|o| !o.starts_with('-') || o.contains('\n')) {
        bail!("--slurm-option '{option}': it must be one of sbatch's, such as --partition=gpu");
    }
    for path in [folder, &program] {
        // sbatch expands % in the names of logs, and its lines have no escapes.
        if path.to_str().is_none_or(|p| p.contains(['%', '"', '\'', '\\', '\n', '$', '`'])) {
            bail!("{}: a script for sbatch cannot name this path: choose a plainer one", path.display());
        }
    }
    // sbatch does not make the folder of the logs.
    crate::data::make_folder(folder.join("slurm"))?;
    let mut files = vec![];
    for first in (0..jobs).step_by(ARRAY) {
        let last = (jobs - first).min(ARRAY) - 1;
        let name = if jobs <= ARRAY { "slurm.sh".into() } else { format!("slurm-{first}.sh") };
        let text = script(folder, &program, first, last, throttle, options);
        write_atomic(folder.join(&name), text.as_bytes())?;
        files.push(folder.join(name));
    }
    Ok(files)
}

fn script(
    folder: &Path,
    program: &Path,
    first: usize,
    last: usize,
    throttle: usize,
    options: &[String],
) -> String {
    let name = folder.file_name().map_or("sweep".into(), |n| n.to_string_lossy().replace(' ', "_"));
    let options: String = options.iter().map(|o| format!("#SBATCH {o}\n")).collect();
    let (folder, program) = (folder.display(), program.display());
    let index = match first {
        0 => "$SLURM_ARRAY_TASK_ID".to_string(),
        _ => format!("$((SLURM_ARRAY_TASK_ID + {first}))"),
    };
    format!(
        r#"#!/bin/sh
# One task per job of the sweep. Submit it again to resume: jobs that are done end at once, others resume from their last checkpoint.
#SBATCH --job-name=kaleid-{name}
#SBATCH --array=0-{last}%{throttle}
#SBATCH --ntasks=1
#SBATCH --gres=gpu:1
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output="{folder}/slurm/%A_%a.log"
# A minute before its time is over, the task is told to write a checkpoint and end.
#SBATCH --signal=B:TERM@60
{options}
# If the cluster shows a task other tasks' GPUs too, set KALEID_ADAPTER here.
exec "{program}" sweep run "{folder}" --job "{index}"
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_sweeps_are_several_arrays() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("my sweep");
        let files = write(&folder, 2400, 8, &["--partition=gpu".into()]).unwrap();
        assert_eq!(files, ["slurm-0.sh", "slurm-1000.sh", "slurm-2000.sh"].map(|f| folder.join(f)));
        let text = std::fs::read_to_string(&files[2]).unwrap();
        assert!(text.starts_with("#!/bin/sh\n"), "{text}");
        for line in
            ["#SBATCH --array=0-399%8", "#SBATCH --partition=gpu", "#SBATCH --job-name=kaleid-my_sweep"]
        {
            assert!(text.lines().any(|l| l == line), "{line} in {text}");
        }
        assert!(text.contains("--job \"$((SLURM_ARRAY_TASK_ID + 2000))\""), "{text}");
        assert!(write(&folder, 1, 8, &["partition".into()]).is_err());
        assert!(write(&dir.path().join("a%b"), 1, 8, &[]).is_err());
    }
}
