//! Files that are read at start.
//!
//! Decides what is refused: a file that is too large, a text that is not UTF-8, a secret that other
//! users of the machine can read. Every refusal names the file and, where it can be repaired by the
//! operator, how. Secrets are wiped from memory when dropped and never printed.

use std::{fmt, fs::File, io::Read, os::unix::fs::PermissionsExt, path::Path};

use zeroize::Zeroizing;

use crate::ConfigError;

/// The largest secret that is read.
pub const MAX_SECRET_BYTES: usize = 64 * 1024;

/// Permission bits of users that are neither the owner nor in the group.
const OTHERS: u32 = 0o007;

/// A secret from a file, without the white space around it.
#[derive(Clone, Eq, PartialEq)]
pub struct SecretText(Zeroizing<String>);

impl SecretText {
    /// The secret itself. What is made of it must be wiped too.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Reads a secret.
///
/// # Errors
///
/// If the file cannot be read, is accessible to other users, is larger than [`MAX_SECRET_BYTES`]
/// or is not UTF-8.
pub fn read_secret(path: &Path) -> Result<SecretText, ConfigError> {
    read_secret_of(path, MAX_SECRET_BYTES)
}

/// Reads a secret, or a file of many, of at most `max_bytes`.
///
/// # Errors
///
/// As [`read_secret`].
pub fn read_secret_of(path: &Path, max_bytes: usize) -> Result<SecretText, ConfigError> {
    let file = open(path)?;
    let mode =
        file.metadata().map_err(|error| unreadable(path).because(error))?.permissions().mode();
    if mode & OTHERS != 0 {
        let path = path.display();
        let reason = format!("is accessible to other users: run `chmod o-rwx {path}`");
        return Err(ConfigError::flag(path, reason));
    }
    let bytes = Zeroizing::new(read(path, file, max_bytes)?);
    let text = text(path, &bytes)?.trim();
    Ok(SecretText(Zeroizing::new(text.to_owned())))
}

/// Reads a text of at most `max_bytes`.
///
/// # Errors
///
/// If the file cannot be read, is larger, or is not UTF-8.
pub fn read_text(path: &Path, max_bytes: usize) -> Result<String, ConfigError> {
    let bytes = read(path, open(path)?, max_bytes)?;
    text(path, &bytes).map(str::to_owned)
}

fn open(path: &Path) -> Result<File, ConfigError> {
    File::open(path).map_err(|error| unreadable(path).because(error))
}

fn read(path: &Path, file: File, max_bytes: usize) -> Result<Vec<u8>, ConfigError> {
    // Room for everything at once: a growing buffer would leave copies of a secret behind.
    let expected = file.metadata().map_or(0, |metadata| metadata.len() as usize);
    let mut bytes = Vec::with_capacity(expected.max(MAX_SECRET_BYTES).min(max_bytes) + 1);
    file.take(max_bytes as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| unreadable(path).because(error))?;
    if bytes.len() > max_bytes {
        return Err(ConfigError::file(path, format!("is larger than {max_bytes} bytes")));
    }
    Ok(bytes)
}

fn text<'a>(path: &Path, bytes: &'a [u8]) -> Result<&'a str, ConfigError> {
    std::str::from_utf8(bytes).map_err(|_| ConfigError::file(path, "is not UTF-8 text"))
}

fn unreadable(path: &Path) -> ConfigError {
    ConfigError::file(path, "cannot be read")
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use super::*;

    #[test]
    fn a_secret_is_trimmed_and_never_printed() {
        let (_directory, path) = file(b"  0xabc \n", 0o600);

        let secret = read_secret(&path).unwrap();

        assert_eq!(secret.expose(), "0xabc");
        assert_eq!(format!("{secret:?}"), "***");
    }

    #[test]
    fn a_secret_that_others_can_read_is_refused_with_the_remedy() {
        for mode in [0o604, 0o602, 0o601] {
            let (_directory, path) = file(b"x", mode);

            let refused = read_secret(&path).unwrap_err().to_string();

            let path = path.display();
            assert_eq!(
                refused,
                format!("{path}: is accessible to other users: run `chmod o-rwx {path}`")
            );
        }
        let (_directory, path) = file(b"x", 0o640);
        assert!(read_secret(&path).is_ok(), "a group may share a secret");
    }

    #[test]
    fn a_secret_has_a_size_limit() {
        let (_directory, path) = file(&vec![b'x'; MAX_SECRET_BYTES], 0o600);
        assert_eq!(read_secret(&path).unwrap().expose().len(), MAX_SECRET_BYTES);

        let (_directory, path) = file(&vec![b'x'; MAX_SECRET_BYTES + 1], 0o600);
        let refused = read_secret(&path).unwrap_err().to_string();
        assert!(refused.ends_with("is larger than 65536 bytes"), "{refused}");
    }

    #[test]
    fn a_file_that_is_missing_or_not_text_is_named() {
        let (directory, path) = file(&[0xff, 0xfe], 0o600);
        let refused = read_text(&path, 10).unwrap_err().to_string();
        assert_eq!(refused, format!("{}: is not UTF-8 text", path.display()));

        let missing = directory.path().join("missing");
        let refused = crate::Exit::from(read_secret(&missing).unwrap_err()).to_string();
        assert!(refused.starts_with(&format!("{}: cannot be read: ", missing.display())));
    }

    fn file(bytes: &[u8], mode: u32) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        (directory, path)
    }
}
