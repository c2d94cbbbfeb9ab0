//! Drawing the next token from a language model's logits.

use super::llama::argmax;

/// How tokens are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Most tokens of a reply.
    pub most: usize,
    /// What logits are divided by; 0: the likeliest token always.
    pub temperature: f32,
    /// Share of the probability that tokens are drawn from (nucleus sampling, Holtzman et al. 2020); 1: all.
    pub top_p: f32,
    /// Tokens that are drawn from; 0: all.
    pub top_k: usize,
    /// Least probability, as a share of the likeliest token's; 0: all.
    pub min_p: f32,
    /// What the logits of tokens that were there before are divided by, or multiplied with below 0 (Keskar et al. 2019); 1: nothing.
    pub repetition_penalty: f32,
}

impl Default for Sampling {
    /// The likeliest token, at most 256 times.
    fn default() -> Sampling {
        Sampling { most: 256, temperature: 0.0, top_p: 1.0, top_k: 0, min_p: 0.0, repetition_penalty: 1.0 }
    }
}

impl Sampling {
    /// The token that `uniform` in [0, 1) draws, behind the tokens `before`.
    pub fn draw(&self, logits: &[f32], before: &[u32], uniform: f32) -> u32 {
        let mut logits = logits.to_vec();
        if self.repetition_penalty != 1.0 {
            let mut seen = before.to_vec();
            seen.sort_unstable();
            seen.dedup();
            for id in seen {
                let Some(v) = logits.get_mut(id as usize) else { continue };
                *v = if *v > 0.0 { *v / self.repetition_penalty } else { *v * self.repetition_penalty };
            }
        }
        if self.temperature <= 0.0 {
            return argmax(&logits);
        }
        let largest = logits[argmax(&logits) as usize];
        let mut tokens: Vec<(f32, u32)> =
            logits.iter().zip(0..).map(|(v, i)| (((v - largest) / self.temperature).exp(), i)).collect();
        tokens.sort_by(|a, b| b.0.total_cmp(&a.0));
        if self.top_k > 0 {
            tokens.truncate(self.top_k);
        }
        // The likeliest has weight 1.
        let unlikely = tokens.iter().position(|t| t.0 < self.min_p);
        tokens.truncate(unlikely.unwrap_or(tokens.len()).max(1));
        let total: f32 = tokens.iter().map(|t| t.0).sum();
        let mut nucleus = 0.0;
        let end = tokens.iter().position(|t| {
            nucleus += t.0;
            nucleus >= self.top_p * total
        });
        tokens.truncate(end.map_or(tokens.len(), |i| i + 1));
        let mut left = uniform * tokens.iter().map(|t| t.0).sum::<f32>();
        let drawn = tokens.iter().find(|t| {
            left -= t.0;
            left < 0.0
        });
        drawn.unwrap_or(&tokens[tokens.len() - 1]).1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_setting_narrows_what_is_drawn_from() {
        let logits = [0.0, 3.0, 1.0, 2.9];
        let all = Sampling { temperature: 1.0, ..Sampling::default() };
        assert_eq!(Sampling::default().draw(&logits, &[], 0.9), 1);
        assert_eq!(Sampling { top_p: 0.1, ..all }.draw(&logits, &[], 0.99), 1);
        assert_eq!(Sampling { top_p: 0.9, ..all }.draw(&logits, &[], 0.6), 3);
        assert_eq!(all.draw(&logits, &[], 0.999_999), 0);
        assert_eq!(Sampling { top_k: 2, ..all }.draw(&logits, &[], 0.999_999), 3);
        assert_eq!(Sampling { min_p: 0.1, ..all }.draw(&logits, &[], 0.999_999), 2);
        // Seen before: 3 / 2 is less than 2.9.
        assert_eq!(
            Sampling { repetition_penalty: 2.0, ..Sampling::default() }.draw(&logits, &[1, 1, 9], 0.0),
            3
        );
        assert_eq!(
            Sampling { repetition_penalty: 2.0, ..Sampling::default() }.draw(&[-1.0, -1.5], &[0], 0.0),
            1
        );
    }
}
