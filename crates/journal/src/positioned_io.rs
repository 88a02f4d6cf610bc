//! Reads and writes at an offset that continue until they are complete. A system call may transfer fewer bytes than
//! requested, or none because a signal interrupted it.

use std::{io, os::unix::fs::FileExt};

/// Reads from `offset` until `bytes` is full or the file ends. Returns the number of bytes read.
///
/// # Errors
/// The first error of the file that is not an interruption. Some of `bytes` may have been overwritten.
pub(super) fn read_until_full(file: &impl FileExt, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
    let mut unread = bytes;
    let mut from = offset;
    let mut bytes_read = 0;
    while !unread.is_empty() {
        match file.read_at(unread, from) {
            Ok(0) => break,
            Ok(count) => {
                unread = unread.split_at_mut(count).1;
                from = advanced(from, count);
                bytes_read += count;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bytes_read)
}

/// Writes all of `bytes` at `offset`.
///
/// # Errors
/// The first error of the file that is not an interruption. [`io::ErrorKind::WriteZero`] if the file accepts no byte
/// without an error, because a repetition might never end. Some of `bytes` may have been written.
pub(super) fn write_all(file: &impl FileExt, offset: u64, bytes: &[u8]) -> io::Result<()> {
    let mut unwritten = bytes;
    let mut to = offset;
    while !unwritten.is_empty() {
        match file.write_at(unwritten, to) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                unwritten = unwritten.split_at(count).1;
                to = advanced(to, count);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Returns the offset `count` bytes after `offset`.
///
/// # Panics
/// If the offset would exceed 64 bits. The bytes would be read from or written to a wrong place.
fn advanced(offset: u64, count: usize) -> u64 {
    let Some(next) = offset.checked_add(count as u64) else {
        panic!("{count} bytes at offset {offset} exceed the largest offset");
    };
    next
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, collections::VecDeque};

    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// What a system call does.
    #[derive(Debug, Clone, Copy)]
    enum Call {
        /// Transfers at most this many bytes.
        Transfers(usize),
        Fails(io::ErrorKind),
    }

    /// A file whose system calls follow a script, and then transfer everything.
    struct ScriptedFile {
        contents: RefCell<Vec<u8>>,
        script: RefCell<VecDeque<Call>>,
    }

    impl ScriptedFile {
        fn new(contents: &[u8], script: &[Call]) -> Self {
            ScriptedFile {
                contents: RefCell::new(contents.to_vec()),
                script: RefCell::new(script.iter().copied().collect()),
            }
        }

        /// Returns the number of bytes that the next call transfers, if `wanted` bytes are possible.
        fn next_call(&self, wanted: usize) -> io::Result<usize> {
            match self.script.borrow_mut().pop_front() {
                None => Ok(wanted),
                Some(Call::Transfers(count)) => Ok(wanted.min(count)),
                Some(Call::Fails(kind)) => Err(kind.into()),
            }
        }
    }

    impl FileExt for ScriptedFile {
        fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
            let contents = self.contents.borrow();
            let start = usize::try_from(offset).unwrap().min(contents.len());
            let count = self.next_call(bytes.len().min(contents.len() - start))?;
            bytes[..count].copy_from_slice(&contents[start..start + count]);
            Ok(count)
        }

        fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
            let count = self.next_call(bytes.len())?;
            let start = usize::try_from(offset).unwrap();
            let mut contents = self.contents.borrow_mut();
            let length = contents.len().max(start + count);
            contents.resize(length, 0);
            contents[start..start + count].copy_from_slice(&bytes[..count]);
            Ok(count)
        }
    }

    /// Calls that transfer at least one byte or are interrupted.
    fn harmless_calls() -> impl Strategy<Value = Vec<Call>> {
        let call = prop_oneof![
            2 => Just(Call::Transfers(1)),
            2 => (1_usize..40).prop_map(Call::Transfers),
            1 => Just(Call::Fails(io::ErrorKind::Interrupted)),
        ];
        vec(call, 0..40)
    }

    proptest! {
        #[test]
        fn a_read_returns_every_byte_up_to_the_end_of_the_file(
            contents in vec(any::<u8>(), 0..100),
            offset in 0_usize..120,
            wanted in 0_usize..120,
            script in harmless_calls(),
        ) {
            let file = ScriptedFile::new(&contents, &script);
            let mut bytes = vec![0xee; wanted];
            let count = read_until_full(&file, offset as u64, &mut bytes).unwrap();
            let expected: Vec<u8> = contents.iter().skip(offset).take(wanted).copied().collect();
            prop_assert_eq!(&bytes[..count], &expected[..]);
            prop_assert!(bytes[count..].iter().all(|byte| *byte == 0xee), "a byte after the end was changed");
        }

        #[test]
        fn a_write_writes_every_byte_at_its_place(
            contents in vec(any::<u8>(), 0..100),
            offset in 0_usize..120,
            bytes in vec(any::<u8>(), 0..100),
            script in harmless_calls(),
        ) {
            let file = ScriptedFile::new(&contents, &script);
            write_all(&file, offset as u64, &bytes).unwrap();
            let mut expected = contents;
            if !bytes.is_empty() {
                let end = offset + bytes.len();
                expected.resize(expected.len().max(end), 0);
                expected[offset..end].copy_from_slice(&bytes);
            }
            prop_assert_eq!(file.contents.into_inner(), expected);
        }

        #[test]
        fn a_failed_call_ends_the_operation_and_later_bytes_stay(
            mut script in harmless_calls(),
            bytes in vec(1_u8.., 41..200),
            zero: bool,
        ) {
            // The script transfers fewer bytes than requested, so that the failing call is reached.
            for call in &mut script {
                if matches!(call, Call::Transfers(_)) {
                    *call = Call::Transfers(1);
                }
            }
            let before = script.iter().filter(|call| matches!(call, Call::Transfers(_))).count();
            let kind = if zero { io::ErrorKind::WriteZero } else { io::ErrorKind::StorageFull };
            script.push(if zero { Call::Transfers(0) } else { Call::Fails(kind) });
            let file = ScriptedFile::new(&vec![0; bytes.len()], &script);
            prop_assert_eq!(write_all(&file, 0, &bytes).unwrap_err().kind(), kind);
            let contents = file.contents.into_inner();
            prop_assert_eq!(&contents[..before], &bytes[..before]);
            prop_assert!(contents[before..].iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn a_failed_read_returns_the_error_and_an_early_end_returns_the_bytes_before_it() {
        let mut bytes = [0; 8];
        let script = [Call::Transfers(3), Call::Fails(io::ErrorKind::InvalidData)];
        let error = read_until_full(&ScriptedFile::new(&[7; 8], &script), 0, &mut bytes).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let script = [Call::Transfers(3), Call::Transfers(0)];
        let file = ScriptedFile::new(&[7; 8], &script);
        assert_eq!(read_until_full(&file, 0, &mut bytes).unwrap(), 3);
    }

    #[test]
    fn an_empty_transfer_makes_no_call() {
        let file = ScriptedFile::new(&[], &[Call::Fails(io::ErrorKind::InvalidData)]);
        assert_eq!(read_until_full(&file, 5, &mut []).unwrap(), 0);
        write_all(&file, 5, &[]).unwrap();
        assert!(file.contents.into_inner().is_empty());
    }

    #[test]
    #[should_panic(expected = "exceed the largest offset")]
    fn a_write_beyond_the_largest_offset_panics() {
        struct EndlessFile;
        impl FileExt for EndlessFile {
            fn read_at(&self, bytes: &mut [u8], _: u64) -> io::Result<usize> {
                Ok(bytes.len())
            }
            fn write_at(&self, bytes: &[u8], _: u64) -> io::Result<usize> {
                Ok(bytes.len())
            }
        }
        let _result = write_all(&EndlessFile, u64::MAX, &[1, 2]);
    }
}
