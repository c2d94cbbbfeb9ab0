//! The stages of a run: whether each can begin, and what it does.

use super::config::Study;
use super::embedded::Embeds;
use super::score::{self, Scoring};
use super::sets::Set;
use super::{demo, results, select};
use crate::core::{Gpu, GpuOptions};
use crate::data::dataset::{Dataset, Domain, Item};
use crate::engines::clip::{ClipEmbedder, PromptReader};
use crate::engines::model::Model;
use crate::engines::options::LongPrompts;
use crate::engines::painter::Painter;
use crate::paint::generate;
use crate::paint::prompts::{self, Grammar, Llm, Prompting};
use crate::sweep::label;
use crate::sweep::state::Log;
use crate::sweep::work::run_jobs;
use crate::train::{self, Training, Variant};
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What is left to do, and what it takes.
#[derive(Debug, Default)]
pub struct Work {
    /// Floating point operations of painting and scoring one image.
    pub image: f64,
    /// Those of all updates of all trainings that are left.
    pub training: f64,
    /// Bytes of device memory that painting takes.
    pub painter: usize,
    /// And an update of the largest training.
    pub update: usize,
    /// Trainings, and how many of them are left.
    pub trainings: [usize; 2],
}

/// What all stages share.
pub struct Run<'a> {
    pub study: &'a Study,
    pub out: &'a Path,
    /// ROOT/DOMAIN/CLASS/image: the originals.
    pub data: PathBuf,
    pub grammar: Grammar,
}

impl<'a> Run<'a> {
    pub fn new(study: &'a Study, out: &'a Path) -> Run<'a> {
        let grammar = if demo::is_builtin(&study.data) { Grammar::demo() } else { Grammar::general() };
        Run { study, out, data: demo::data(&study.data, out), grammar }
    }

    /// Sees that every stage that is left can begin, before the first of them spends time or money.
    ///
    /// # Errors
    /// What would stop one of them: models, data or settings that do not work, an adapter that is too small.
    pub fn check(&self, gpu: &Gpu, adapter: &GpuOptions) -> Result<Work> {
        let study = self.study;
        self.llm(adapter)?;
        let mut work = Work::default();
        if !self.is_scored() || self.images()?[1] > 0 {
            let model = self.model(None)?;
            // Those of single domains only have to fit it.
            let domains = study.images.lora.iter().filter_map(|lora| lora.domain.as_deref());
            domains.into_iter().try_for_each(|domain| self.model(Some(domain)).map(|_| ()))?;
            let mut painter = Painter::new(gpu, &model, &study.images.resolved(), usize::MAX, 1)?;
            if self.sets().contains(&Set::FromOriginals) {
                painter = painter.from_images()?;
            }
            let clip =
                ClipEmbedder::open(gpu, &demo::folder(&study.score.clip, "clip")?, gpu.caps().weights())?;
            work.image = painter.flops_of_an_image()? + clip.flops_of_an_image();
            work.painter = painter.memory();
        }
        let trainings = self.trainings()?;
        work.trainings = [trainings.len(), trainings.iter().filter(|t| !is_done(t)).count()];
        for algorithm in &study.compare.algorithms {
            // The other variants need images that are still to be painted.
            let Some(first) = trainings.iter().find(|t| t.algorithm == *algorithm) else { continue };
            let originals = Training { variant: Variant::O, extra: None, ..first.clone() };
            let needs = train::check(gpu, &originals)?;
            // Those of real ones are there.
            let real =
                trainings.iter().find(|t| t.algorithm == *algorithm && t.variant == Variant::Retrieval);
            real.map(|training| train::check(gpu, training)).transpose()?;
            let left = trainings.iter().filter(|t| t.algorithm == *algorithm && !is_done(t)).count();
            work.update = work.update.max(needs.memory.total());
            work.training += (left * study.train.steps()) as f64 * needs.flops;
        }
        Ok(work)
    }

    /// Sees that the images of the prompts will be enough for every training, before they are painted.
    ///
    /// # Errors
    /// A domain that will have fewer images than a batch.
    pub fn check_prompts(&self) -> Result<()> {
        let dataset = Dataset::open(&self.data)?;
        let mut planned: BTreeMap<Set, Vec<Domain>> = BTreeMap::new();
        for set in self.sets() {
            let mut domains: BTreeMap<String, Vec<Item>> = BTreeMap::new();
            for picture in self.pictures(set)? {
                let (Some(domain), Some(class)) = (picture.domain, picture.class) else { continue };
                let Some(class) = dataset.classes.iter().position(|c| *c == class) else { continue };
                let path = self.folder(set).join(picture.file_name);
                domains.entry(domain).or_default().push(Item { path, class });
            }
            planned.insert(set, domains.into_iter().map(|(name, items)| Domain { name, items }).collect());
        }
        for training in self.trainings()?.into_iter().filter(|t| t.trial_seed == 0) {
            let Some(added) = Set::of(training.variant).and_then(|set| planned.get(&set)) else { continue };
            train::check_planned(&training, &dataset, added.clone()).context(
                "training would fail on images that are still to be painted; larger: [prompts] share; smaller: [train] total_batch",
            )?;
        }
        Ok(())
    }

    /// Images, and how many of them are left: those of the prompts, or about as many as there will be.
    ///
    /// # Errors
    /// A prompts.jsonl or a data set that cannot be read.
    pub fn images(&self) -> Result<[usize; 2]> {
        if self.has_prompts() {
            let (mut all, mut left) = (0, 0);
            for set in self.sets() {
                let (folder, pictures) = (self.folder(set), self.pictures(set)?);
                all += pictures.len();
                left += pictures.iter().filter(|p| !folder.join(&p.file_name).exists()).count();
            }
            return Ok([all, left]);
        }
        let (study, dataset) = (self.study, Dataset::open(&self.data)?);
        let held_out = study.test_domains.held_out();
        let seen = dataset.domains.iter().filter(|domain| !held_out.contains(&domain.name));
        let sizes: Vec<f64> = seen.map(|domain| domain.items.len() as f64).collect();
        let all: f64 = sizes.iter().sum();
        let writing = &study.prompts;
        let new = if writing.domains.is_empty() { writing.new } else { writing.domains.len() };
        let count = writing.share * (all + new as f64 * all / sizes.len().max(1) as f64);
        Ok([count.round() as usize * self.sets().len(); 2])
    }

    /// Whether prompts are written.
    pub fn has_prompts(&self) -> bool {
        self.out.join("prompts.jsonl").exists()
    }

    /// Height and width of images as they are painted, and as they are saved.
    ///
    /// # Errors
    /// A model that does not open.
    pub fn sizes(&self) -> Result<[[usize; 2]; 2]> {
        let options = self.study.images.resolved();
        let painted = self.model(None)?.size(options.size)?;
        Ok([painted, options.saved_size.unwrap_or(painted)])
    }

    fn llm(&self, adapter: &GpuOptions) -> Result<Llm> {
        Llm::parse(&self.study.prompts, adapter).context("[prompts] llm")
    }

    /// Whether the images are painted and scored: scoring writes this file last, from images that do not change any more.
    pub fn is_scored(&self) -> bool {
        self.out.join("diversity.json").exists()
    }

    pub fn write_prompts(&self, adapter: &GpuOptions) -> Result<()> {
        let (writing, llm) = (self.study.prompts.clone(), self.llm(adapter)?);
        let (hold_out, seed) = (self.study.test_domains.held_out(), self.study.seed);
        let prompting = Prompting { hold_out, seed, writing, ..Prompting::new(&self.data, self.out) };
        let encoder = PromptReader::of(&self.model(None)?)?;
        let reads_all = self.study.images.long_prompts == LongPrompts::Chunk;
        prompts::run(&prompting, &llm, &self.grammar, &|text| {
            reads_all || encoder.lost(text).is_ok_and(|lost| lost.is_empty())
        })?;
        Ok(())
    }

    /// The painter's model, for images of a domain.
    fn model(&self, domain: Option<&str>) -> Result<Model> {
        let options = self.study.images.resolved().for_domain(domain);
        Model::open(&demo::folder(&options.model, "stable-diffusion")?, &options)
    }

    /// Paints what is not there of every set.
    pub fn paint(&self, gpu: &Gpu, beside: &[GpuOptions]) -> Result<()> {
        self.sets().into_iter().try_for_each(|set| self.paint_set(gpu, beside, set))
    }

    fn paint_set(&self, gpu: &Gpu, beside: &[GpuOptions], set: Set) -> Result<()> {
        let options = &self.study.images;
        let model = demo::folder(&options.model, "stable-diffusion")?;
        generate::run(
            gpu,
            &model,
            &self.pictures(set)?,
            &self.folder(set),
            options,
            self.study.seed,
            generate::Work { beside, ..generate::Work::default() },
        )?;
        Ok(())
    }

    /// What a set's images are compared with.
    fn scoring(&self, set: Set) -> Result<Scoring> {
        Ok(Scoring {
            data: self.data.clone(),
            generated: self.folder(set),
            hold_out: self.study.test_domains.held_out(),
            names: self.names()?,
            seed: self.study.seed,
            measure: self.study.score.clone(),
        })
    }

    /// Judges every image that is not judged yet, and paints again what the rules want; the embeddings of the written set's, if it was
    /// judged now.
    pub fn select(
        &self,
        gpu: &Gpu,
        beside: &[GpuOptions],
        adapters: &[GpuOptions],
    ) -> Result<Option<Embeds>> {
        let (rules, mut embeds) = (&self.study.select, None);
        let classifier = rules.classify().then(|| self.classifier()).transpose()?;
        for set in self.sets() {
            if select::is_done(&self.folder(set), self.pictures(set)?.len())? {
                continue;
            }
            if let Some(training) = &classifier {
                self.train_all(std::slice::from_ref(training), adapters)?;
            }
            let paint = || self.paint_set(gpu, beside, set);
            let (kept, judged) = select::run(gpu, &self.scoring(set)?, rules, classifier.as_ref(), &paint)?;
            eprintln!("{}: {}", self.folder(set).display(), select::summary(&judged));
            if set == Set::Written {
                embeds = Some(kept);
            }
        }
        Ok(embeds)
    }

    /// Measures the diversity that the written set adds.
    pub fn score(&self, gpu: &Gpu, embeds: Option<Embeds>) -> Result<()> {
        if self.is_scored() {
            return Ok(());
        }
        let scoring = self.scoring(Set::Written)?;
        match embeds {
            Some(embeds) if embeds.are_those_of(&scoring)? => score::measure(embeds, &scoring, self.out)?,
            _ => score::run(gpu, &scoring, self.out)?,
        };
        Ok(())
    }

    /// Trains what is not done, as a sweep does it: one worker an adapter, and a training that stopped resumes.
    pub fn train(&self, adapters: &[GpuOptions]) -> Result<()> {
        self.train_all(&self.trainings()?, adapters)
    }

    fn train_all(&self, trainings: &[Training], adapters: &[GpuOptions]) -> Result<()> {
        let tally = run_jobs(adapters, trainings, true)?;
        if tally.done == trainings.len() {
            return Ok(());
        }
        let failed = trainings.iter().find_map(|t| Some((t, Log::read(&t.out).error?)));
        match failed {
            Some((training, error)) => bail!("{}: {error}", label(training)),
            None => bail!("{} trainings are run by other processes", tally.elsewhere),
        }
    }

    /// The training that judges images: ERM on the originals, which is the run's own where it has it.
    fn classifier(&self) -> Result<Training> {
        let (study, targets) = (self.study, results::targets(self.out, self.study)?);
        let target = targets.into_iter().next().context("a test domain")?;
        Ok(Training {
            variant: Variant::O,
            test_domains: target,
            seed: study.seed,
            settings: study.train.clone(),
            ..Training::new(&self.data, results::folder(self.out, None, "ERM", Variant::O, 0))
        })
    }

    /// Every training, grouped by seed, so that an interrupted run already has variants to compare.
    fn trainings(&self) -> Result<Vec<Training>> {
        let (study, mut trainings) = (self.study, vec![]);
        let compare = &study.compare;
        let targets = results::targets(self.out, study)?;
        for seed in 0..compare.seeds {
            for target in &targets {
                let name = results::named(target);
                let below = Some(name.as_str()).filter(|_| targets.len() > 1);
                for algorithm in &compare.algorithms {
                    trainings.extend(compare.variants.iter().map(|&variant| Training {
                        extra: match Set::of(variant) {
                            Some(set) => Some(self.folder(set)),
                            None => compare.retrieval.clone().filter(|_| variant == Variant::Retrieval),
                        },
                        variant,
                        test_domains: target.clone(),
                        algorithm: algorithm.clone(),
                        trial_seed: seed,
                        seed: study.seed + seed,
                        settings: study.train.clone(),
                        ..Training::new(
                            &self.data,
                            results::folder(self.out, below, algorithm, variant, seed),
                        )
                    }));
                }
            }
        }
        Ok(trainings)
    }
}

fn is_done(training: &Training) -> bool {
    training.out.join("done").exists()
}
