//! The crew, told what to expect case by case, and run against a model of the world.

mod cases;
mod properties;
mod world;
