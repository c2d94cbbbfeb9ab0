//! Activations: what each is, in one row, and the two kernels that all of them share.

use super::elementwise::fours;
use crate::core::{Graph, Tensor};

/// An element-wise function, alone or applied by other kernels to what they write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Act {
    /// x
    #[default]
    None,
    /// max(x, 0)
    Relu,
    /// x sigmoid(x)
    Silu,
    /// x Phi(x), the exact form
    Gelu,
    /// x sigmoid(1.702 x), of OpenAI's CLIP
    QuickGelu,
    /// 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), of Gemma
    GeluTanh,
    /// 1 / (1 + exp(-x))
    Sigmoid,
    /// tanh(x)
    Tanh,
    /// e^x
    Exp,
    /// ln x
    Log,
    /// sqrt(x)
    Sqrt,
}

/// What is known of an activation.
struct Row {
    /// The file in shaders/ with `act` and its derivative `dact`.
    part: &'static str,
    /// act''(x), of differentiable ops; none where it is zero.
    second: fn(&Graph, Tensor) -> Option<Tensor>,
    /// dx of x, y and dy, where one or two other ops give it from y; else the kernel with `dact` does.
    dx: Option<fn(&Graph, Tensor, Tensor, Tensor) -> Tensor>,
}

impl Act {
    /// The table. A new activation is its part file, its variant above and a row here.
    fn row(self) -> Row {
        let by_kernel = |part, second| Row { part, second, dx: None };
        match self {
            Act::None => by_kernel("act/none", |_, _| None),
            Act::Relu => by_kernel("act/relu", |_, _| None), // undefined at zero
            Act::Silu => by_kernel("act/silu", |g, x| Some(g.swish_second(x, 1.0))),
            Act::QuickGelu => by_kernel("act/quick_gelu", |g, x| Some(g.swish_second(x, 1.702))),
            Act::Gelu => by_kernel("act/gelu", |g, x| {
                let square = g.mul(x, x);
                let density = g.scale(g.exp(g.scale(square, -0.5)), 0.398_942_3);
                Some(g.mul(density, g.add_scalar(g.scale(square, -1.0), 2.0)))
            }),
            // x s with s = sigmoid(v): 2 s' + x s'', where s' = v' s (1 - s) and s'' = s (1 - s) (v'' + v'^2 (1 - 2 s)).
            Act::GeluTanh => by_kernel("act/gelu_tanh", |g, x| {
                let (k, c) = (1.595_769_1, 0.044_715);
                let square = g.mul(x, x);
                let s = g.sigmoid(g.mul(x, g.add_scalar(g.scale(square, k * c), k)));
                let slope = g.sub(s, g.mul(s, s));
                let v1 = g.add_scalar(g.scale(square, 3.0 * k * c), k);
                let bend = g.mul(g.mul(v1, v1), g.add_scalar(g.scale(s, -2.0), 1.0));
                let bend = g.add(bend, g.scale(x, 6.0 * k * c));
                Some(g.mul(slope, g.add(g.scale(v1, 2.0), g.mul(x, bend))))
            }),
            Act::Sigmoid => by_kernel("act/sigmoid", |g, x| {
                let s = g.sigmoid(x);
                Some(g.mul(g.sub(s, g.mul(s, s)), g.add_scalar(g.scale(s, -2.0), 1.0)))
            }),
            Act::Tanh => by_kernel("act/tanh", |g, x| {
                let y = g.tanh(x);
                Some(g.scale(g.sub(y, g.mul(y, g.mul(y, y))), -2.0))
            }),
            Act::Exp => {
                Row { part: "act/exp", second: |g, x| Some(g.exp(x)), dx: Some(|g, _, y, dy| g.mul(dy, y)) }
            }
            Act::Log => Row {
                part: "act/log",
                second: |g, x| Some(g.scale(g.exp(g.scale(g.log(x), -2.0)), -1.0)),
                dx: Some(|g, x, _, dy| g.div(dy, x)),
            },
            Act::Sqrt => Row {
                part: "act/sqrt",
                second: |g, x| Some(g.scale(g.exp(g.scale(g.log(x), -1.5)), -0.25)),
                dx: Some(|g, _, y, dy| g.div(g.scale(dy, 0.5), y)),
            },
        }
    }

    /// The part file that defines it.
    pub(crate) fn part(self) -> &'static str {
        self.row().part
    }
}

impl Graph {
    /// y = act(x)
    #[track_caller]
    pub fn act(&self, x: Tensor, act: Act) -> Tensor {
        if act == Act::None {
            return x;
        }
        let call = self.call(fours("unary", "forward", x.dtype()).part(act.part())).input(x).ints([x.len()]);
        let y = call.threads(x.len().div_ceil(4), 64).output_as(x.shape(), x.dtype());
        self.vjp(y, move |g, dy| match act.row().dx {
            Some(dx) => vec![(x, dx(g, x, y, dy))],
            None => vec![(x, g.act_backward(act, x, dy))],
        });
        y
    }

    /// dx = dy act'(x)
    pub(crate) fn act_backward(&self, act: Act, x: Tensor, dy: Tensor) -> Tensor {
        let call = self.call(fours("unary", "backward", x.dtype()).part(act.part())).input(x).input(dy);
        let call = call.ints([x.len()]).threads(x.len().div_ceil(4), 64);
        let dx = call.output_as(x.shape(), x.dtype());
        self.vjp(dx, move |g, v| {
            let mut grads = vec![(dy, g.act_backward(act, x, v))];
            grads.extend((act.row().second)(g, x).map(|slope| (x, g.mul(g.mul(v, dy), slope))));
            grads
        });
        dx
    }

    /// The second derivative of x s, s = sigmoid(a x): a s (1 - s) (2 + a x (1 - 2 s)).
    fn swish_second(&self, x: Tensor, a: f32) -> Tensor {
        let s = self.sigmoid(self.scale(x, a));
        let tilt = self.add_scalar(self.scale(s, -2.0), 1.0);
        let factor = self.add_scalar(self.mul(self.scale(x, a), tilt), 2.0);
        self.scale(self.mul(self.sub(s, self.mul(s, s)), factor), a)
    }

    /// y = max(x, 0)
    #[track_caller]
    pub fn relu(&self, x: Tensor) -> Tensor {
        self.act(x, Act::Relu)
    }

    /// y = x sigmoid(x)
    #[track_caller]
    pub fn silu(&self, x: Tensor) -> Tensor {
        self.act(x, Act::Silu)
    }

    /// y = x Phi(x), with the normal distribution's integral Phi: torch's default GELU.
    #[track_caller]
    pub fn gelu(&self, x: Tensor) -> Tensor {
        self.act(x, Act::Gelu)
    }

    /// y = x sigmoid(1.702 x), the activation of OpenAI's CLIP.
    #[track_caller]
    pub fn quick_gelu(&self, x: Tensor) -> Tensor {
        self.act(x, Act::QuickGelu)
    }

    /// y = 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))): GELU as Gemma and GPT-2 have it.
    #[track_caller]
    pub fn gelu_tanh(&self, x: Tensor) -> Tensor {
        self.act(x, Act::GeluTanh)
    }

    /// y = 1 / (1 + exp(-x))
    #[track_caller]
    pub fn sigmoid(&self, x: Tensor) -> Tensor {
        self.act(x, Act::Sigmoid)
    }

    /// y = tanh(x)
    #[track_caller]
    pub fn tanh(&self, x: Tensor) -> Tensor {
        self.act(x, Act::Tanh)
    }

    /// y = e^x
    #[track_caller]
    pub fn exp(&self, x: Tensor) -> Tensor {
        self.act(x, Act::Exp)
    }

    /// y = ln x
    #[track_caller]
    pub fn log(&self, x: Tensor) -> Tensor {
        self.act(x, Act::Log)
    }

    /// y = sqrt(x)
    #[track_caller]
    pub fn sqrt(&self, x: Tensor) -> Tensor {
        self.act(x, Act::Sqrt)
    }
}
