//! `rvmm image`.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;

use super::print;

#[derive(Debug, Args)]
pub(super) struct ImageArgs {
    /// Write the image to this file, which `qemu-system-x86_64 -kernel` boots too
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(super) fn image(args: &ImageArgs) -> anyhow::Result<ExitCode> {
    let image = unikernel_image::IMAGE;
    if !unikernel_image::IS_BUILT {
        bail!("this program has no image: it was not built for Linux on x86-64");
    }
    let place = match &args.out {
        Some(file) => {
            fs::write(file, image).with_context(|| file.display().to_string())?;
            format!(", written to {}", file.display())
        }
        None => String::new(),
    };
    print(format!("xenstore: ELF with a PVH entry, {} bytes{place}\n", image.len()))?;
    Ok(ExitCode::SUCCESS)
}
