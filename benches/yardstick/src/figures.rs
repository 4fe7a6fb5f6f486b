//! What was measured, by name. It is kept in a file between the commands, because the document is written from it.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

/// Each name has the parts of the yardstick as its first word: `floor.1x64.udsmsg`.
#[derive(Default)]
pub struct Figures(BTreeMap<String, f64>);

impl Figures {
    fn file() -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/figures.json")
    }

    /// What earlier commands measured, or nothing.
    pub fn load() -> Result<Self> {
        match fs::read(Self::file()) {
            Ok(bytes) => {
                Ok(Self(serde_json::from_slice(&bytes).context("figures.json is damaged: delete it")?))
            }
            Err(_) => Ok(Self::default()),
        }
    }

    pub fn save(&self) -> Result<()> {
        let file = Self::file();
        fs::create_dir_all(file.parent().context("no place for figures")?)?;
        Ok(fs::write(file, serde_json::to_string_pretty(&self.0)?)?)
    }

    pub fn set(&mut self, name: impl Into<String>, value: f64) {
        self.0.insert(name.into(), value);
    }

    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.get(name).copied()
    }

    pub fn forget(&mut self, part: &str) {
        self.0.retain(|name, _| name.split('.').next() != Some(part));
    }
}

/// The middle one; not a number if there is none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
