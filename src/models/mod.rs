//! Models as functions: each reads a configuration and records a graph. Weight paths equal the Hugging Face and torchvision names.

pub mod autoencoder;
mod blocks;
pub mod clip;
pub mod gguf;
pub mod inversion;
pub mod ldm;
pub mod llama;
pub mod lora;
pub mod resnet;
pub mod taesd;
pub mod unet;
pub mod vae;
