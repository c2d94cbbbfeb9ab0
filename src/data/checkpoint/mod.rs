//! Checkpoints: named tensors in files of safetensors, pickles of torch or GGUF, mapped into memory and converted to f32 when asked for.
//! Every reader makes the same of its file: names, shapes, and where the numbers lie.

mod gguf;
mod pickle;
mod safetensors;
mod save;
mod stored;
mod torch;

pub use save::{TensorData, save};

use super::elements::{Element, Values, elements};
use super::text::stand_in;
use super::{synthetic, weight_files};
use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use stored::Stored;

/// Named tensors of a model, in one file or several. Tensors are read when asked for. Clones share the files.
#[derive(Clone)]
pub struct Checkpoint {
    /// What error messages call it.
    name: String,
    shards: Vec<Arc<Shard>>,
    entries: BTreeMap<String, Entry>,
    patches: BTreeMap<String, Vec<Patch>>,
    metadata: BTreeMap<String, String>,
    header: Map<String, Value>,
    remarks: Vec<String>,
    synthetic: bool,
}

/// What is done to the numbers of a tensor when they are read.
pub type Patch = Arc<dyn Fn(&mut [f32]) + Send + Sync>;

struct Shard {
    name: String,
    bytes: Bytes,
}

enum Bytes {
    Mapped(memmap2::Mmap),
    Held(Cow<'static, [u8]>),
}

impl Bytes {
    fn slice(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map) => map,
            Bytes::Held(bytes) => bytes,
        }
    }
}

#[derive(Clone)]
struct Entry {
    shard: usize,
    stored: Stored,
}

impl Checkpoint {
    /// Opens a file of weights (which format it has, its content says), the index of several, or what a folder holds under one of the
    /// usual names: see [`weight_files`].
    ///
    /// # Errors
    /// No such file, a file that is not whole or of no format that is known, an index that names what is not there.
    pub fn open(path: impl AsRef<Path>) -> Result<Checkpoint> {
        let path = path.as_ref();
        let mut checkpoint = Checkpoint::empty(path.display().to_string());
        let file = if path.is_dir() { weight_files::find(path)? } else { path.to_path_buf() };
        if file.extension().is_none_or(|e| e != "json") {
            checkpoint.name = file.display().to_string();
            let files = weight_files::split(&file).unwrap_or(vec![file]);
            files.iter().try_for_each(|file| checkpoint.add_file(file))?;
            return Ok(checkpoint);
        }
        let (shards, tensors) = weight_files::shards(&file)?;
        shards.iter().try_for_each(|shard| checkpoint.add_file(shard))?;
        match tensors.iter().find(|name| !checkpoint.contains(name)) {
            Some(name) => bail!("{}: {name} is in none of the files it lists", file.display()),
            None => Ok(checkpoint),
        }
    }

    /// A file of weights that lies in memory, such as one inside the program; `name` says so in error messages.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn from_bytes(name: &str, bytes: impl Into<Cow<'static, [u8]>>) -> Result<Checkpoint> {
        let mut checkpoint = Checkpoint::empty(name.to_string());
        checkpoint.add(name.to_string(), Bytes::Held(bytes.into()))?;
        Ok(checkpoint)
    }

    /// A checkpoint that makes up every tensor asked for from its name and shape, by the rule of [`synthetic::tensor`]: full-size
    /// models are compared with reference values that were made from the same weights, without a download.
    pub fn synthetic() -> Checkpoint {
        Checkpoint { synthetic: true, ..Checkpoint::empty("synthetic weights".into()) }
    }

    fn empty(name: String) -> Checkpoint {
        Checkpoint {
            name,
            shards: vec![],
            entries: BTreeMap::new(),
            patches: BTreeMap::new(),
            metadata: BTreeMap::new(),
            header: Map::new(),
            remarks: vec![],
            synthetic: false,
        }
    }

    /// What error messages call it: mostly the path.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What files say beside their tensors: what [`save`] was given, the numbers and texts of a pickle.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The keys and values of a GGUF.
    pub fn header(&self) -> &Map<String, Value> {
        &self.header
    }

    /// What was not read, and why.
    pub fn remarks(&self) -> &[String] {
        &self.remarks
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Whether it holds a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// Shape of a tensor, in torch's layout.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.entries.get(name).map(|e| e.stored.shape.as_slice())
    }

    /// What a tensor's numbers are kept as.
    pub fn element(&self, name: &str) -> Option<Element> {
        self.entries.get(name).map(|e| e.stored.element)
    }

    /// The same tensors under other names; those that `f` gives none are left out.
    pub fn rename(mut self, f: impl Fn(&str) -> Option<String>) -> Checkpoint {
        let old = std::mem::take(&mut self.entries);
        self.entries = old.into_iter().filter_map(|(name, e)| Some((f(&name)?, e))).collect();
        let old = std::mem::take(&mut self.patches);
        self.patches = old.into_iter().filter_map(|(name, p)| Some((f(&name)?, p))).collect();
        self
    }

    /// Changes the numbers of a tensor, whenever they are read, after what changes them already.
    pub fn patch(&mut self, name: String, patch: Patch) {
        self.patches.entry(name).or_default().push(patch);
    }

    /// Makes a tensor of each share of the rows of `name`, in order, and drops it.
    ///
    /// # Errors
    /// No such tensor, rows that do not divide.
    pub fn split(&mut self, name: &str, parts: &[String]) -> Result<()> {
        let Entry { shard, stored } = self.entry(name)?.clone();
        let rows = stored.shape.first().copied().unwrap_or(0);
        let each = rows / parts.len();
        for (i, part) in parts.iter().enumerate() {
            let fits = rows % parts.len() == 0;
            let stored = stored.rows(i * each..(i + 1) * each).filter(|_| fits);
            let (file, n) = (&self.name, parts.len());
            let stored =
                stored.with_context(|| format!("{file}: {name} of {rows} rows is not {n} in one"))?;
            self.entries.insert(part.clone(), Entry { shard, stored });
        }
        self.entries.remove(name);
        Ok(())
    }

    /// The same tensors without the prefix under which it has most of `wanted`, and that prefix: programs wrap a network in others, and
    /// save it as `module.`, `_orig_mod.`, `backbone.`, `featurizer.network.`. Of several, the shortest.
    pub fn below_prefix(self, wanted: &[&str]) -> (Checkpoint, String) {
        let mut prefixes: BTreeMap<&str, usize> = BTreeMap::new();
        for (name, tensor) in self.names().flat_map(|name| wanted.iter().map(move |tensor| (name, tensor))) {
            let prefix = name.strip_suffix(tensor).filter(|p| p.is_empty() || p.ends_with('.'));
            *prefixes.entry(prefix.unwrap_or_default()).or_default() += usize::from(prefix.is_some());
        }
        let best = prefixes.into_iter().max_by_key(|(p, n)| (*n, std::cmp::Reverse(p.len())));
        let prefix = best.map_or(String::new(), |(p, _)| p.to_string());
        let renamed = match prefix.is_empty() {
            true => self,
            false => self.rename(|name| name.strip_prefix(&prefix).map(str::to_string)),
        };
        (renamed, prefix)
    }

    /// Sees that it holds a floating-point tensor of this name and shape, without reading its values.
    ///
    /// # Errors
    /// As [`Checkpoint::f32`], but for the numbers.
    pub fn check(&self, name: &str, shape: &[usize]) -> Result<()> {
        if self.synthetic {
            return Ok(());
        }
        let Entry { shard, stored } = self.entry(name)?;
        let file = &self.shards[*shard].name;
        if trimmed(&stored.shape) != trimmed(shape) {
            bail!("{file}: {name} has shape {:?}, expected {shape:?}", stored.shape);
        }
        match stored.element {
            element if element.is_float() => Ok(()),
            other => bail!("{file}: {name} holds {other}, expected F32, F16, BF16 or F64"),
        }
    }

    /// All values of a tensor, which must have torch's shape `shape` (sizes of 1 at its end do not count: a 1x1 convolution
    /// may be stored as a matrix, and a matrix as a 1x1 convolution).
    ///
    /// # Errors
    /// No such tensor, another shape, elements that are not floating point, numbers that are not finite.
    pub fn f32(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        match self.values(name, shape, false)? {
            Values::F32(values) => Ok(values),
            Values::F16(_) => unreachable!("not asked for"),
        }
    }

    /// [`Checkpoint::f32`], or as f16: without a detour where the file holds halves.
    ///
    /// # Errors
    /// As [`Checkpoint::f32`].
    pub fn values(&self, name: &str, shape: &[usize], half: bool) -> Result<Values> {
        if self.synthetic {
            return Ok(Values::of(synthetic::tensor(name, shape), half));
        }
        self.check(name, shape)?;
        let entry = self.entry(name)?;
        match self.patches.get(name) {
            None => self.convert(name, entry, half),
            Some(patches) => {
                let Values::F32(mut values) = self.convert(name, entry, false)? else {
                    unreachable!("not asked for")
                };
                patches.iter().for_each(|patch| patch(&mut values));
                Ok(Values::of(values, half))
            }
        }
    }

    /// Rows `ids` of a matrix, one after the other: an embedding may be larger than a device lets a kernel see.
    ///
    /// # Errors
    /// As [`Checkpoint::f32`]; a row that the matrix does not have.
    pub fn rows_f32(&self, name: &str, ids: &[u32], shape: &[usize; 2]) -> Result<Vec<f32>> {
        let [rows, width] = *shape;
        if let Some(id) = ids.iter().find(|&&id| id as usize >= rows) {
            bail!("{}: {name} has {rows} rows, asked for row {id}", self.name);
        }
        if self.synthetic {
            let table = synthetic::tensor(name, shape);
            return Ok(ids.iter().flat_map(|&id| &table[id as usize * width..][..width]).copied().collect());
        }
        let entry = self.entry(name)?;
        if entry.stored.shape != shape {
            let file = &self.shards[entry.shard].name;
            bail!("{file}: {name} has shape {:?}, expected {shape:?}", entry.stored.shape);
        }
        let mut out = Vec::with_capacity(ids.len() * width);
        for &id in ids {
            let row = entry.stored.rows(id as usize..id as usize + 1);
            let stored = row.with_context(|| format!("{}: rows of {name} share blocks", self.name))?;
            match self.convert(name, &Entry { shard: entry.shard, stored }, false)? {
                Values::F32(row) => out.extend(row),
                Values::F16(_) => unreachable!("not asked for"),
            }
        }
        Ok(out)
    }

    /// Shape and values of a floating-point tensor.
    ///
    /// # Errors
    /// No such tensor, elements that are not floating point.
    pub fn tensor(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>)> {
        let shape = self.entry(name)?.stored.shape.clone();
        let data = self.f32(name, &shape)?;
        Ok((shape, data))
    }

    /// Values of a tensor of whole numbers (ids, labels).
    ///
    /// # Errors
    /// No such tensor, other elements than I32 or I64, a negative number.
    pub fn u32s(&self, name: &str) -> Result<Vec<u32>> {
        let entry = self.entry(name)?;
        let bytes = self.bytes(entry);
        let numbers: Vec<i64> = match (entry.stored.element, &entry.stored.strides) {
            (Element::I32, None) => elements(bytes).map(|b| i32::from_le_bytes(b).into()).collect(),
            (Element::I64, None) => elements(bytes).map(i64::from_le_bytes).collect(),
            (other, _) => {
                bail!("{}: {name} holds {other:?}, expected I32 or I64", self.shards[entry.shard].name)
            }
        };
        let convert = |&n: &i64| u32::try_from(n);
        let numbers: Result<Vec<u32>, _> = numbers.iter().map(convert).collect();
        numbers.map_err(|_| anyhow!("{}: {name} holds a number below 0 or above 2^32", self.name))
    }

    fn entry(&self, name: &str) -> Result<&Entry> {
        self.entries.get(name).ok_or_else(|| {
            let last = name.rsplit('.').nth(1).unwrap_or(name);
            let near = self.names().find(|n| n.contains(last)).map(|n| format!(" (it has {n})"));
            anyhow!("{}: no tensor {name}{}", self.name, near.unwrap_or_default())
        })
    }

    fn bytes(&self, entry: &Entry) -> &[u8] {
        &self.shards[entry.shard].bytes.slice()[entry.stored.range.clone()]
    }

    /// The numbers of a tensor, or of a part of it.
    fn convert(&self, name: &str, entry: &Entry, half: bool) -> Result<Values> {
        let (file, stored) = (&self.shards[entry.shard].name, &entry.stored);
        let values = Values::read(stored.element, self.bytes(entry), half)
            .map_err(|e| anyhow!("{file}: {name} {e}"))?;
        let values = match &stored.strides {
            Some(strides) => values.at(&stored.places(strides)),
            None => values,
        };
        // One such number spoils every output: name it here, before it becomes a black image.
        if let Some((i, value)) = values.not_finite() {
            bail!("{file}: {name} holds {value} at place {i}: the file is damaged, or its training diverged");
        }
        Ok(values)
    }

    /// Adds every tensor of a file, of whichever format its content is.
    fn add(&mut self, name: String, bytes: Bytes) -> Result<()> {
        let slice = bytes.slice();
        if let Some(what) = stand_in(slice) {
            bail!("{name}: {what}");
        }
        let found = match slice {
            [b'G', b'G', b'U', b'F', ..] => gguf::read(slice),
            [b'P', b'K', 3 | 5, 4 | 6, ..] => torch::read_zip(slice),
            // The length of a header in JSON may begin like a pickle, but ends with zeros.
            [_, _, _, _, _, _, 0, 0, ..] => safetensors::read(slice),
            [0x80, 2..=5, ..] => torch::read_legacy(slice),
            _ => safetensors::read(slice),
        };
        let found = found.map_err(|e| anyhow!("{name}: {e:#}"))?;
        self.metadata.extend(found.metadata);
        self.remarks.extend(found.remarks.into_iter().map(|remark| format!("{name}: {remark}")));
        self.header.extend(found.header);
        let shard = self.shards.len();
        for (tensor, stored) in found.tensors {
            if let Some(other) = self.entries.get(&tensor) {
                match self.shards.get(other.shard) {
                    Some(other) => {
                        bail!("{name}: {tensor} is in {} as well: which one is meant?", other.name)
                    }
                    None => bail!("{name}: {tensor} is in it twice: which one is meant?"),
                }
            }
            self.entries.insert(tensor, Entry { shard, stored });
        }
        self.shards.push(Arc::new(Shard { name, bytes }));
        Ok(())
    }

    fn add_file(&mut self, file: &Path) -> Result<()> {
        let opened = std::fs::File::open(file);
        let handle = opened.with_context(|| format!("{}: cannot open the weights", file.display()))?;
        // SAFETY: the map is only read. If another program changes the file, numbers change, not types;
        // we replace files by renaming, which leaves the map as it was.
        let map = unsafe { memmap2::Mmap::map(&handle) };
        let map = map.with_context(|| format!("{}: cannot map the weights into memory", file.display()))?;
        self.add(file.display().to_string(), Bytes::Mapped(map))
    }
}

/// A shape without the ones at its end.
fn trimmed(shape: &[usize]) -> &[usize] {
    let len = shape.iter().rposition(|&d| d != 1).map_or(0, |i| i + 1);
    &shape[..len]
}
