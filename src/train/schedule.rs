//! When a run writes what. Steps count from 0, and "at a step" is after its update.

use super::settings::Settings;
use crate::domainbed::hparams::Preset;

/// Which steps end a row of metrics.jsonl, give a result, or are measured by SWAD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Number of steps.
    pub steps: usize,
    /// Results come every N steps (DomainBed's `checkpoint_freq`) and at the last; with 0 only at the last.
    every: usize,
    /// Rows of metrics end at least every N steps.
    log_every: usize,
    swad: bool,
    preset: Preset,
}

impl Schedule {
    /// What the settings ask for.
    pub fn new(settings: &Settings) -> Schedule {
        Schedule {
            steps: settings.steps(),
            every: settings.checkpoint_freq,
            log_every: settings.log_every,
            swad: settings.swad,
            preset: settings.preset,
        }
    }

    fn is_last(&self, step: usize) -> bool {
        step + 1 == self.steps
    }

    /// Every N steps from step 0 on.
    fn is_regular(&self, step: usize) -> bool {
        self.every > 0 && step.is_multiple_of(self.every)
    }

    /// Whether accuracies are recorded at `step`. With SWAD there is one result, of the average, at the end.
    pub fn result_due(&self, step: usize) -> bool {
        if self.swad {
            return self.is_last(step);
        }
        // In 2020, DomainBed did not look at a last step that was not a regular one.
        let last_counts = self.every == 0 || self.preset != Preset::Db2020;
        self.is_regular(step) || (last_counts && self.is_last(step))
    }

    /// Whether SWAD measures the validation loss at `step`.
    pub fn measured(&self, step: usize) -> bool {
        self.swad && (self.is_regular(step) || self.is_last(step))
    }

    /// Whether a row of metrics ends with `step`.
    pub fn row_ends(&self, step: usize) -> bool {
        self.result_due(step) || self.measured(step) || (step + 1).is_multiple_of(self.log_every)
    }

    /// The first step whose weights SWAD's average holds, when `next` is the next step to be made.
    pub fn average_since(&self, next: usize) -> usize {
        (0..next).rev().find(|&step| self.measured(step)).map_or(0, |step| step + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(change: impl Fn(&mut Settings)) -> Schedule {
        let mut settings =
            Settings { steps: Some(12), checkpoint_freq: 5, log_every: 4, ..Settings::default() };
        change(&mut settings);
        Schedule::new(&settings)
    }

    /// The steps that give results, those that are measured, and those that end rows.
    fn steps(s: &Schedule) -> [Vec<usize>; 3] {
        let of = |which: fn(&Schedule, usize) -> bool| (0..s.steps).filter(|&i| which(s, i)).collect();
        [of(Schedule::result_due), of(Schedule::measured), of(Schedule::row_ends)]
    }

    #[test]
    fn results_come_regularly_from_the_first_step_on_and_at_the_last() {
        assert_eq!(steps(&schedule(|_| {})), [vec![0, 5, 10, 11], vec![], vec![0, 3, 5, 7, 10, 11]]);
        // The last step is a regular one.
        assert_eq!(steps(&schedule(|s| s.steps = Some(11)))[0], [0, 5, 10]);
        assert_eq!(steps(&schedule(|s| s.steps = Some(1))), [vec![0], vec![], vec![0]]);
    }

    #[test]
    fn without_a_frequency_only_the_last_step_gives_a_result() {
        assert_eq!(steps(&schedule(|s| s.checkpoint_freq = 0)), [vec![11], vec![], vec![3, 7, 11]]);
    }

    #[test]
    fn domainbed_of_2020_leaves_an_odd_last_step_out() {
        let old = |change: fn(&mut Settings)| {
            let schedule = schedule(|s| {
                s.preset = Preset::Db2020;
                change(s);
            });
            steps(&schedule)[0].clone()
        };
        assert_eq!(old(|_| {}), [0, 5, 10]);
        assert_eq!(old(|s| s.steps = Some(11)), [0, 5, 10]);
        assert_eq!(old(|s| s.checkpoint_freq = 0), [11]);
    }

    #[test]
    fn swad_measures_where_others_have_results_and_has_one_at_the_end() {
        for preset in [Preset::Db2020, Preset::Db2024] {
            let swad = schedule(|s| (s.swad, s.preset) = (true, preset));
            assert_eq!(steps(&swad), [vec![11], vec![0, 5, 10, 11], vec![0, 3, 5, 7, 10, 11]]);
            // The average starts anew after each measurement, also where a run resumes between two.
            assert_eq!([0, 1, 5, 6, 9, 11].map(|next| swad.average_since(next)), [0, 1, 1, 6, 6, 11]);
        }
    }
}
