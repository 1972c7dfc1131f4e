//! Brotli in binary frames, told apart from JSON by the first byte, with a bound on both sides.

use std::{
    borrow::Cow,
    io::{Read, Write},
};

use super::FrameError;

/// The most bytes of a frame, compressed or not (the upstream's cap on decompressed frames).
pub const MAX_FRAME_BYTES: usize = 32 * 1024 * 1024;

/// Quality 3 has the best ratio at its cost for flashblocks; higher ones compress them worse.
const QUALITY: u32 = 3;
const WINDOW_BITS: u32 = 22;
const BUFFER_BYTES: usize = 4096;

/// The JSON of a frame.
///
/// # Errors
/// If the frame or its JSON is over the cap, or it is not brotli although it is not JSON.
pub fn decompress(frame: &[u8]) -> Result<Cow<'_, [u8]>, FrameError> {
    if frame.len() > MAX_FRAME_BYTES {
        return Err(FrameError::TooLarge);
    }
    if frame.trim_ascii().starts_with(b"{") {
        return Ok(Cow::Borrowed(frame));
    }
    let mut json = Vec::new();
    // One byte over the cap is read, so that what was cut off is not taken for the whole.
    brotli::Decompressor::new(frame, BUFFER_BYTES)
        .take(MAX_FRAME_BYTES as u64 + 1)
        .read_to_end(&mut json)
        .map_err(FrameError::NotBrotli)?;
    if json.len() > MAX_FRAME_BYTES {
        return Err(FrameError::TooLarge);
    }
    Ok(Cow::Owned(json))
}

/// A frame's JSON as brotli.
pub fn compress(json: &[u8]) -> Vec<u8> {
    let mut writer = brotli::CompressorWriter::new(
        Vec::with_capacity(json.len() / 2),
        BUFFER_BYTES,
        QUALITY,
        WINDOW_BITS,
    );
    writer.write_all(json).expect("writing to memory cannot fail");
    writer.into_inner()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_compressed_reads_back() {
        let json = br#"{"payload_id":"0x00"}"#.repeat(100);
        let frame = compress(&json);
        assert!(frame.len() < json.len());
        assert_eq!(decompress(&frame).unwrap(), json);
    }

    #[test]
    fn white_space_before_an_object_is_still_json() {
        assert!(matches!(decompress(b" \n\t{}"), Ok(Cow::Borrowed(_))));
    }

    #[test]
    fn what_is_neither_json_nor_brotli_is_refused() {
        assert!(matches!(decompress(b"hello, world"), Err(FrameError::NotBrotli(_))));
        assert!(matches!(decompress(b"[1,2]"), Err(FrameError::NotBrotli(_))));
    }

    #[test]
    fn a_frame_that_unpacks_to_more_than_the_cap_is_refused() {
        let bomb = compress(&vec![b' '; MAX_FRAME_BYTES + 1]);
        assert!(bomb.len() < 1024);
        assert!(matches!(decompress(&bomb), Err(FrameError::TooLarge)));
    }
}
