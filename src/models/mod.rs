//! Models as functions that record a graph. Weight paths equal the Hugging Face and torchvision names.
pub mod clip;
pub mod config;
pub mod golden;
pub mod unet;
pub mod vae;
pub mod resnet;
