use crate::harness::{Arr, Case};

#[test]
fn permute_moves_dimensions() {
    let cases: [(&[usize], &[usize]); 5] = [
        (&[5, 7], &[1, 0]),
        (&[2, 3, 5, 8], &[0, 2, 1, 3]),
        (&[3, 5, 4], &[2, 0, 1]),
        (&[2, 1, 3, 5], &[3, 1, 2, 0]),
        (&[1], &[0]),
    ];
    for (shape, dims) in cases {
        Case::new("permute", &[shape]).check(
            |g, x| g.permute(x[0], dims),
            |x| {
                let to: Vec<usize> = dims.iter().map(|&d| shape[d]).collect();
                let skip = 4 - shape.len();
                Arr::from_fn(&to, |at| {
                    let mut from = [0; 4];
                    dims.iter().enumerate().for_each(|(i, &d)| from[skip + d] = at[skip + i]);
                    x[0].at(from)
                })
            },
        );
    }
}

#[test]
fn slice_takes_a_part_of_one_dimension() {
    for (shape, dim, start, length) in [
        (vec![7], 0, 2, 3),
        (vec![3, 8], 1, 4, 4),
        (vec![3, 9], 1, 1, 8),
        (vec![2, 5, 4, 8], 1, 1, 3),
        (vec![2, 5, 4, 7], 3, 6, 1),
    ] {
        let skip = 4 - shape.len();
        Case::new("slice", &[&shape]).check(
            |g, x| g.slice(x[0], dim, start, length),
            |x| {
                let mut to = shape.clone();
                to[dim] = length;
                Arr::from_fn(&to, |mut at| {
                    at[skip + dim] += start;
                    x[0].at(at)
                })
            },
        );
    }
}

#[test]
fn pad_puts_zeros_around() {
    let cases: [(&[usize], &[(usize, usize)]); 3] = [
        (&[3], &[(1, 2)]),
        (&[2, 3, 3, 4], &[(0, 0), (1, 0), (2, 1), (0, 4)]),
        (&[2, 3, 3], &[(1, 1), (0, 0), (0, 1)]),
    ];
    for (shape, by) in cases {
        let skip = 4 - shape.len();
        Case::new("pad", &[shape]).check(
            |g, x| g.pad(x[0], by),
            |x| {
                let to: Vec<usize> = shape.iter().zip(by).map(|(n, b)| n + b.0 + b.1).collect();
                Arr::from_fn(&to, |mut at| {
                    for (d, b) in by.iter().enumerate() {
                        at[skip + d] = at[skip + d].wrapping_sub(b.0);
                        if at[skip + d] >= shape[d] {
                            return 0.0;
                        }
                    }
                    x[0].at(at)
                })
            },
        );
    }
}

#[test]
fn concat_joins_along_any_dimension() {
    let cases: [(&[&[usize]], usize); 4] = [
        (&[&[3], &[2]], 0),
        (&[&[2, 3, 4], &[2, 3, 8]], 2),
        (&[&[2, 3, 2, 5], &[2, 1, 2, 5], &[2, 2, 2, 5]], 1),
        (&[&[2, 3], &[1, 3]], 0),
    ];
    for (shapes, dim) in cases {
        Case::new("concat", shapes).check(
            |g, x| g.concat(x, dim),
            |x| {
                let mut to = x[0].shape.clone();
                to[dim] = x.iter().map(|x| x.shape[dim]).sum();
                let skip = 4 - to.len();
                Arr::from_fn(&to, |mut at| {
                    for part in x {
                        if at[skip + dim] < part.shape[dim] {
                            return part.at(at);
                        }
                        at[skip + dim] -= part.shape[dim];
                    }
                    unreachable!()
                })
            },
        );
    }
}

#[test]
fn copies_of_more_than_65535_workgroups() {
    let n = 65_536 * 64 + 3;
    Case::new("slice", &[&[n + 2]])
        .forward_only()
        .check(|g, x| g.slice(x[0], 0, 1, n), |x| Arr::new(&[n], x[0].data[1..=n].to_vec()));
}
