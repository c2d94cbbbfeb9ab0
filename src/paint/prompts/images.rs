//! The images to come: how many of each domain and class, and what each is drawn from.

use super::domains::NewDomain;
use super::labels::Labels;
use super::template::Label;
use crate::data::rng::Key;

/// Image number `number` of a domain and class.
pub struct Image<'a> {
    pub domain: &'a Label,
    pub class: &'a Label,
    pub number: usize,
}

impl Labels<'_> {
    /// Every image to come, in the order of the files.
    pub fn images<'a>(&'a self, new: &'a [NewDomain]) -> Vec<Image<'a>> {
        let share = |n: f64| (n * self.settings.writing.share).round() as usize;
        let balance = self.settings.writing.balance;
        let classes = |total: usize, counts: &[usize]| match balance.classes() {
            true => top_up(total, counts),
            false => apportion(total, counts),
        };
        let mut domains: Vec<(&Label, Vec<usize>)> = vec![];
        let with_test = self.held_out.iter().filter(|_| self.settings.writing.include_test_style);
        let known: Vec<_> = self.originals.iter().chain(with_test).collect();
        let sizes: Vec<usize> = known.iter().map(|(_, counts)| counts.iter().sum()).collect();
        let mut totals: Vec<usize> = sizes.iter().map(|&size| share(size as f64)).collect();
        if balance.domains() {
            totals = top_up(totals.iter().sum(), &sizes);
        }
        for ((label, counts), total) in known.into_iter().zip(totals) {
            domains.push((label, classes(total, counts)));
        }
        let summed: Vec<usize> = (0..self.classes.len())
            .map(|c| self.originals.iter().map(|(_, counts)| counts[c]).sum())
            .collect();
        let mean = summed.iter().sum::<usize>() as f64 / self.originals.len() as f64;
        // A new domain has no originals: balanced, its classes are even.
        let weights = if balance.classes() { vec![0; summed.len()] } else { summed };
        domains.extend(new.iter().map(|n| (&n.label, classes(share(mean), &weights))));
        let mut images = vec![];
        for (domain, counts) in domains {
            for (class, count) in self.classes.iter().zip(counts) {
                images.extend((0..count).map(|number| Image { domain, class, number }));
            }
        }
        images
    }

    /// The seed of an image's noise, of 53 bits so that every reader of JSON keeps it whole.
    pub fn seed(&self, image: &Image) -> u64 {
        let [low, high, ..] = self.key(image, "seed").block(0);
        (u64::from(high) << 32 | u64::from(low)) >> 11
    }

    /// The stream of an image's draws for `purpose`.
    pub fn key(&self, image: &Image, purpose: &str) -> Key {
        let purpose = format!("{purpose} {}/{}", image.domain.folder, image.class.folder);
        Key::new(self.settings.seed, image.number as u32, &purpose)
    }
}

/// Divides `total` in proportion to `weights`: the largest remainders are rounded up, and each gets at least one if possible.
fn apportion(total: usize, weights: &[usize]) -> Vec<usize> {
    let sum = weights.iter().sum::<usize>().max(1);
    let mut parts: Vec<usize> = weights.iter().map(|w| total * w / sum).collect();
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(total * weights[i] % sum));
    let left = total - parts.iter().sum::<usize>();
    order.iter().take(left).for_each(|&i| parts[i] += 1);
    while let Some(empty) = parts.iter().position(|&n| n == 0) {
        // The first of the largest.
        let Some(most) = (0..parts.len()).rev().max_by_key(|&i| parts[i]).filter(|&i| parts[i] > 1) else {
            break;
        };
        parts[most] -= 1;
        parts[empty] += 1;
    }
    parts
}

/// Divides `total` so that with the `counts` that there are already all become as even as they can: what is rarest gets the next one.
fn top_up(total: usize, counts: &[usize]) -> Vec<usize> {
    let mut parts = vec![0; counts.len()];
    for _ in 0..total {
        let Some(rarest) = (0..counts.len()).min_by_key(|&i| counts[i] + parts[i]) else { break };
        parts[rarest] += 1;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::{apportion, top_up};

    #[test]
    fn what_is_rare_is_topped_up_and_the_total_stays() {
        assert_eq!(top_up(6, &[10, 4, 7]), [0, 5, 1]);
        assert_eq!(top_up(9, &[10, 4, 7]), [0, 6, 3]);
        assert_eq!(top_up(5, &[0, 0]), [3, 2]);
        assert_eq!(top_up(0, &[1, 2]), [0, 0]);
    }

    #[test]
    fn totals_are_exact_and_no_class_goes_without() {
        assert_eq!(apportion(10, &[10, 10]), [5, 5]);
        assert_eq!(apportion(7, &[10, 10, 1]), [3, 3, 1]);
        assert_eq!(apportion(10, &[98, 1, 1]), [8, 1, 1]);
        assert_eq!(apportion(2, &[5, 5, 5]), [1, 1, 0]);
        assert_eq!(apportion(3, &[1000, 1, 1]), [1, 1, 1]);
        assert_eq!(apportion(0, &[1, 2]), [0, 0]);
    }
}
