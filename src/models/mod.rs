//! Models as functions that record a graph. Weight paths equal the Hugging Face and torchvision names.
pub mod clip;
pub mod config;
pub mod llama;
pub mod resnet;
pub mod unet;
pub mod vae;
