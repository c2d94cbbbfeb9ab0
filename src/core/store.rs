//! Tensors that outlive a plan: parameters, optimizer moments, running statistics. And [`Weights`], the handle through which a
//! model names its parameters.

use super::dtype::DType;
use super::gpu::Gpu;
use super::graph::{Graph, Init};
use super::tensor::Tensor;
use crate::data::checkpoint::{self, Checkpoint, TensorData};
use crate::data::elements::Values;
use anyhow::{Result, bail};
use rayon::prelude::*;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::rc::Rc;

/// Named device tensors. Plans made over the same store share them.
pub struct Store {
    gpu: Gpu,
    entries: RefCell<BTreeMap<String, Entry>>,
}

#[derive(Clone)]
struct Entry {
    /// Torch's shape.
    shape: Vec<usize>,
    dtype: DType,
    buffer: wgpu::Buffer,
}

/// **Every rank-4 parameter is a convolution**: OIHW in files, OHWI on the device, so that a convolution is a matrix product
/// along contiguous channels.
fn device_shape(torch: &[usize]) -> Vec<usize> {
    match *torch {
        [o, i, h, w] => vec![o, h, w, i],
        _ => torch.to_vec(),
    }
}

/// The reverse: the shape in files of a tensor on the device.
pub(crate) fn torch_shape(device: &[usize]) -> Vec<usize> {
    match *device {
        [o, h, w, i] => vec![o, i, h, w],
        _ => device.to_vec(),
    }
}

/// Values in the order in which they lie on the device.
fn on_device(values: Values, torch: &[usize]) -> Values {
    match *torch {
        [o, i, h, w] if h * w > 1 => values.channels_last([o, i, h, w]),
        _ => values,
    }
}

/// The bytes of values one after the other, filled up to whole words.
fn words(parts: &[Values]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(parts.iter().map(|p| p.bytes().len()).sum::<usize>() + 2);
    parts.iter().for_each(|part| bytes.extend_from_slice(part.bytes()));
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn is_half(name: &str, dtype: DType) -> Result<bool> {
    match dtype {
        DType::F32 => Ok(false),
        DType::F16 => Ok(true),
        DType::U32 => bail!("{name}: integer states are not written as floats"),
    }
}

/// Bytes of parameters that may wait on the host to be copied to the device.
const WAITING: usize = 128 << 20;

impl Store {
    /// An empty store on `gpu`.
    pub fn new(gpu: &Gpu) -> Self {
        Store { gpu: gpu.clone(), entries: RefCell::default() }
    }

    /// The device it lives on.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Sets a tensor, given in torch's layout. It must fit what the store or a plan already holds under that name.
    ///
    /// # Errors
    /// Another shape than the tensor has, or no device memory for a new one.
    pub fn write(&mut self, name: &str, shape: &[usize], data: &[f32]) -> Result<()> {
        let dtype = self.entries.borrow().get(name).map_or(DType::F32, |e| e.dtype);
        self.write_as(name, shape, dtype, data)
    }

    /// [`Store::write`], with the element type that a new tensor gets on the device.
    ///
    /// # Errors
    /// As [`Store::write`].
    pub fn write_as(&mut self, name: &str, shape: &[usize], dtype: DType, data: &[f32]) -> Result<()> {
        if shape.iter().product::<usize>() != data.len() {
            bail!("{name}: {} numbers for shape {shape:?}", data.len());
        }
        let entry = self.place(name, shape, dtype)?;
        let values = Values::of(data.to_vec(), is_half(name, entry.dtype)?);
        self.gpu.queue().write_buffer(&entry.buffer, 0, &words(&[on_device(values, shape)]));
        self.gpu.check(|| format!("writing {name}"))
    }

    /// The entry of this name and shape, made where there is none yet.
    fn place(&self, name: &str, shape: &[usize], dtype: DType) -> Result<Entry> {
        let held = self.entries.borrow().get(name).cloned();
        match held {
            Some(entry) if entry.shape != shape => {
                bail!("{name}: shape {shape:?}, expected {:?}", entry.shape)
            }
            Some(entry) => Ok(entry),
            None => {
                let buffer = self.gpu.buffer(name, dtype.bytes(shape.iter().product()))?;
                let entry = Entry { shape: shape.to_vec(), dtype, buffer };
                self.entries.borrow_mut().insert(name.to_string(), entry.clone());
                Ok(entry)
            }
        }
    }

    /// Shape and values of a tensor, in torch's layout.
    ///
    /// # Errors
    /// No such tensor; a device that fails.
    pub fn read(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>)> {
        let Some(entry) = self.entries.borrow().get(name).cloned() else { bail!("{name}: not in the store") };
        let n = entry.shape.iter().product();
        let bytes = self.gpu.download(&entry.buffer, entry.dtype.bytes(n))?;
        let mut data: Vec<f32> = match entry.dtype {
            DType::F32 => bytemuck::pod_collect_to_vec(&bytes),
            DType::F16 => {
                bytemuck::pod_collect_to_vec::<u8, half::f16>(&bytes).iter().map(|h| h.to_f32()).collect()
            }
            DType::U32 => bail!("{name}: integer states are not read as floats"),
        };
        data.truncate(n);
        if let [o, i, h, w] = entry.shape[..]
            && h * w > 1
        {
            data = crate::data::nhwc_to_nchw(&data, [o, h, w, i]);
        }
        Ok((entry.shape, data))
    }

    /// Sets parameters, as [`Weights::params`] lists those that a model asked for, to what `checkpoint` holds under their names.
    ///
    /// # Errors
    /// A tensor that the checkpoint lacks or holds in another shape; no device memory.
    pub fn load(&mut self, checkpoint: &Checkpoint, params: &[Param]) -> Result<()> {
        self.load_with(checkpoint, params, |_| ())
    }

    /// [`Store::load`] by all cores; `done` hears the bytes of each parameter.
    ///
    /// # Errors
    /// As [`Store::load`].
    pub fn load_with(
        &mut self,
        checkpoint: &Checkpoint,
        params: &[Param],
        done: impl Fn(usize) + Sync,
    ) -> Result<()> {
        let mut rest = params;
        while !rest.is_empty() {
            // What is written waits in memory of the host until it is submitted.
            let mut waiting = 0;
            let fits = |p: &&Param| {
                waiting += p.tensor.bytes();
                waiting <= WAITING
            };
            let (some, others) = rest.split_at(rest.iter().take_while(fits).count().max(1));
            rest = others;
            let place = |p: &Param| self.place(&p.name, &torch_shape(p.tensor.shape()), p.tensor.dtype());
            let entries: Vec<Entry> = some.iter().map(place).collect::<Result<_>>()?;
            let queue = self.gpu.queue();
            some.par_iter().zip(&entries).try_for_each(|(param, entry)| {
                let bytes = param.read(checkpoint, entry.dtype)?;
                queue.write_buffer(&entry.buffer, 0, &bytes);
                done(bytes.len());
                anyhow::Ok(())
            })?;
            queue.submit([]);
            self.gpu.wait()?;
            self.gpu.check(|| format!("writing {}", some[0].name))?;
        }
        Ok(())
    }

    /// Writes tensors to a safetensors file, in torch's layout and as f32.
    ///
    /// # Errors
    /// A name that the store does not hold, a file that cannot be written.
    pub fn save(
        &self,
        path: impl AsRef<Path>,
        names: &[String],
        metadata: &BTreeMap<String, String>,
    ) -> Result<()> {
        let read = |name: &String| {
            let (shape, data) = self.read(name)?;
            Ok((name.clone(), TensorData::f32(&shape, &data)))
        };
        let tensors = names.iter().map(read).collect::<Result<BTreeMap<_, _>>>()?;
        checkpoint::save(path, &tensors, metadata)
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> Vec<String> {
        self.entries.borrow().keys().cloned().collect()
    }

    /// The buffer behind a state of a graph; made of zeros or ones where the state says so.
    pub(crate) fn bind(&self, name: &str, t: &Tensor, init: Init) -> Result<wgpu::Buffer> {
        if let Some(entry) = self.entries.borrow().get(name) {
            if device_shape(&entry.shape) != t.shape() || entry.dtype != t.dtype() {
                bail!("{name}: the store holds {:?} {:?}, the graph wants {t:?}", entry.dtype, entry.shape);
            }
            return Ok(entry.buffer.clone());
        }
        if init == Init::Loaded {
            bail!("{name}: no values were loaded for this parameter");
        }
        let buffer = self.gpu.buffer(name, t.bytes())?;
        if init == Init::Ones {
            self.gpu.queue().write_buffer(&buffer, 0, bytemuck::cast_slice(&vec![1f32; t.len()]));
        }
        let entry = Entry { shape: torch_shape(t.shape()), dtype: t.dtype(), buffer: buffer.clone() };
        self.entries.borrow_mut().insert(name.to_string(), entry);
        Ok(buffer)
    }
}

/// A parameter that a model has asked for.
#[derive(Clone, Debug)]
pub struct Param {
    /// Its name in a store.
    pub name: String,
    /// Itself.
    pub tensor: Tensor,
    /// The tensors of a checkpoint that it is made of, one below the other, with torch's shapes: mostly one, of the same name.
    pub parts: Vec<(String, Vec<usize>)>,
}

impl Param {
    /// Its values as they lie on the device.
    fn read(&self, checkpoint: &Checkpoint, dtype: DType) -> Result<Vec<u8>> {
        let half = is_half(&self.name, dtype)?;
        let part = |(name, shape): &(String, Vec<usize>)| {
            Ok(on_device(checkpoint.values(name, shape, half)?, shape))
        };
        Ok(words(&self.parts.iter().map(part).collect::<Result<Vec<_>>>()?))
    }

    /// Sees that `checkpoint` has it, without reading its values.
    ///
    /// # Errors
    /// As [`Checkpoint::check`].
    pub fn check(&self, checkpoint: &Checkpoint) -> Result<()> {
        self.parts.iter().try_for_each(|(name, shape)| checkpoint.check(name, shape))
    }
}

/// A path into a set of parameters. Models ask it for tensors under their checkpoint names, in torch's shapes; whose tensors
/// they get is the caller's choice, so that one model can be recorded twice with different parameters.
#[derive(Clone)]
pub struct Weights<'g> {
    graph: &'g Graph,
    path: String,
    dtype: DType,
    overlay: Rc<HashMap<String, Tensor>>,
    declared: Rc<RefCell<Vec<Param>>>,
}

impl<'g> Weights<'g> {
    /// Parameters stored as `dtype` (with [`DType::F16`] only matrices and convolutions are: vectors stay f32).
    pub fn new(graph: &'g Graph, dtype: DType) -> Self {
        Weights { graph, path: String::new(), dtype, overlay: Rc::default(), declared: Rc::default() }
    }

    /// The graph that they are states of.
    pub fn graph(&self) -> &'g Graph {
        self.graph
    }

    /// The parameters below `name`: `w.sub("layer1.0")`.
    pub fn sub(&self, name: impl AsRef<str>) -> Self {
        Weights { path: self.name(name.as_ref()), ..self.clone() }
    }

    /// The same parameters, none of them packed: for tables that are added to activations instead of multiplied with them.
    pub fn unpacked(&self) -> Self {
        Weights { dtype: DType::F32, ..self.clone() }
    }

    /// The same names, but those in `tensors` stand for other values: weights after an inner step, a frozen teacher.
    pub fn overlay(&self, tensors: HashMap<String, Tensor>) -> Self {
        Weights { overlay: Rc::new(tensors), ..self.clone() }
    }

    /// The same parameters in a closure that outlives the borrow of the graph, for what is recomputed.
    pub fn keep(&self) -> impl Fn(&Graph) -> Weights + use<> {
        let Weights { path, dtype, overlay, declared, .. } = self.clone();
        move |graph| Weights {
            graph,
            path: path.clone(),
            dtype,
            overlay: overlay.clone(),
            declared: declared.clone(),
        }
    }

    /// What matrices are stored as, and with them the activations of models made for inference.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// This path.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Full name of the parameter `name` below this path.
    pub fn name(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_string() } else { format!("{}.{name}", self.path) }
    }

    /// The parameter `name` of torch's shape `shape`; convolutions come as OHWI.
    #[track_caller]
    pub fn get(&self, name: &str, shape: &[usize]) -> Tensor {
        let full = self.name(name);
        if let Some(&t) = self.overlay.get(&full) {
            assert_eq!(t.shape(), device_shape(shape), "overlay of {full}");
            return t;
        }
        self.declare(full.clone(), shape, vec![(full, shape.to_vec())])
    }

    /// The parameters of several layers, one below the other, as one tensor: layers that share their input are one product. `parts` are
    /// full names and torch's shapes, equal but for their first dimension.
    #[track_caller]
    pub fn stack(&self, parts: Vec<(String, Vec<usize>)>) -> Tensor {
        let (first, rest) = (&parts[0], parts.len() - 1);
        let fits = |shape: &[usize]| shape.len() < 4 && shape[1..] == first.1[1..];
        assert!(parts.iter().all(|(_, shape)| fits(shape)), "a stack of {parts:?}");
        assert!(
            parts.iter().all(|(name, _)| !self.overlay.contains_key(name)),
            "a stack with an overlay: {parts:?}"
        );
        let mut shape = first.1.clone();
        shape[0] = parts.iter().map(|(_, shape)| shape[0]).sum();
        self.declare(format!("{} and {rest} more", first.0), &shape, parts)
    }

    fn declare(&self, name: String, shape: &[usize], parts: Vec<(String, Vec<usize>)>) -> Tensor {
        // Convolutions whose channels must be filled up to multiples of four (images of three channels) stay f32 as well.
        let packed = match *shape {
            [o, i, h, w] => h * w == 1 || (o % 4 == 0 && i % 4 == 0),
            _ => shape.len() > 1,
        };
        let dtype = if packed { self.dtype } else { DType::F32 };
        let tensor = self.graph.state(&name, &device_shape(shape), dtype, Init::Loaded);
        let mut declared = self.declared.borrow_mut();
        if !declared.iter().any(|p| p.name == name) {
            declared.push(Param { name, tensor, parts });
        }
        tensor
    }

    /// Everything asked for so far, by any clone, in order.
    pub fn params(&self) -> Vec<Param> {
        self.declared.borrow().clone()
    }
}
