//! The binding of the trie, and its file: written under another name first, read as a mapping.
//!
//! The only place with `unsafe`: a mapped file, and numpy arrays over memory that the trie holds.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use memmap2::Mmap;
use numpy::ndarray::{ArrayView, IntoDimension, Ix1, Ix2};
use numpy::{Element, IntoPyArray, PyArray, PyArray1, PyArray2};
use pyo3::prelude::*;

use super::waiting::interruptible;
use super::{marks, per_level, threads, to_table, Argument, Rows};
use crate::codes::{CodeSpace, Codes};
use crate::error::Error;
use crate::trie;

type Arrays<'py> = (Bound<'py, PyAny>, Bound<'py, PyAny>, Bound<'py, PyAny>);

#[cfg(target_endian = "big")]
compile_error!("numpy views of the trie's arrays are little-endian");

/// The trie of the semantic IDs that exist; never changes once built.
///
/// The memory layout is that of the trie that it holds.
#[pyclass(frozen, module = "mql4grec._core")]
pub(super) struct CodeTrie {
    trie: trie::CodeTrie,
}

#[pymethods]
impl CodeTrie {
    #[new]
    #[pyo3(signature = (codes, n_codes, *, n_threads=None))]
    fn new(
        py: Python<'_>,
        codes: &Bound<'_, PyAny>,
        n_codes: &Bound<'_, PyAny>,
        n_threads: Option<isize>,
    ) -> PyResult<Self> {
        let codes = Argument::<u16, Ix2>::new("codes", codes)?;
        let n_codes = per_level::<usize>("n_codes", n_codes)?;
        let n_threads = threads(n_threads)?;
        let data = codes.copied()?;
        let trie = interruptible(py, data.len(), |interrupt| {
            let table = Codes::new(&data, codes.shape[1])?;
            trie::CodeTrie::new_until(table, CodeSpace::new(&n_codes)?, (n_threads, interrupt))
        })?;
        Ok(Self { trie })
    }

    /// Map a trie from a file.
    #[staticmethod]
    #[pyo3(signature = (path, /, *, verify=false))]
    fn load(py: Python<'_>, path: PathBuf, verify: bool) -> PyResult<Self> {
        let bytes = py.detach(|| map(&path))?;
        Ok(Self { trie: py.detach(|| trie::CodeTrie::from_bytes(bytes, verify))? })
    }

    /// Write the trie to a file, which is replaced once all is written.
    #[pyo3(signature = (path, /))]
    fn save(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        py.detach(|| {
            let (header, arrays) = self.trie.to_parts();
            replace(&path, &[&header, arrays])
        })
        .map_err(PyErr::from)
    }

    /// Node of the empty prefix.
    #[getter]
    fn root(&self) -> i64 {
        trie::ROOT
    }

    /// Number of items.
    #[getter]
    fn n_items(&self) -> usize {
        self.trie.n_items()
    }

    /// Number of levels L.
    #[getter]
    fn n_levels(&self) -> usize {
        self.trie.n_levels()
    }

    /// Number of nodes, root and leaves included.
    #[getter]
    fn n_nodes(&self) -> usize {
        self.trie.n_nodes()
    }

    /// Number of codes K of each level.
    #[getter]
    fn n_codes(&self) -> Vec<usize> {
        self.trie.n_codes().to_vec()
    }

    /// First node of each depth, and one after the last leaf.
    #[getter]
    fn levels(&self) -> Vec<u32> {
        self.trie.levels().to_vec()
    }

    /// Memory of the arrays in bytes, mapped or not.
    #[getter]
    fn nbytes(&self) -> usize {
        self.trie.nbytes()
    }

    /// Views of the arrays (offsets, codes, rows), for walking the trie elsewhere.
    fn arrays<'py>(slf: &Bound<'py, Self>) -> PyResult<Arrays<'py>> {
        let trie = &slf.get().trie;
        let codes = match trie.code_bytes() {
            1 => view::<u8, _>(slf, trie.code_array(), trie.code_array().len())?,
            _ => view::<u16, _>(slf, trie.code_array(), trie.code_array().len() / 2)?,
        };
        let offsets = view::<u32, _>(slf, trie.offset_bytes(), trie.offset_bytes().len() / 4)?;
        Ok((offsets, codes, view::<u32, _>(slf, trie.row_bytes(), trie.n_items())?))
    }

    /// View of the table of nodes after the first one or two codes; None if there is none.
    fn table<'py>(slf: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let trie = &slf.get().trie;
        Ok(match trie.table() {
            (nodes, &[first]) => Some(lend(slf, nodes, first)?),
            (nodes, &[first, second]) => Some(lend(slf, nodes, (first, second))?),
            _ => None,
        })
    }

    /// Codes that may follow each prefix: (offsets, codes).
    #[pyo3(signature = (prefixes, /))]
    fn allowed<'py>(
        &self,
        py: Python<'py>,
        prefixes: &Bound<'py, PyAny>,
    ) -> PyResult<(Rows<'py>, Bound<'py, PyArray1<u16>>)> {
        let prefixes = Argument::<u16, Ix2>::new("prefixes", prefixes)?;
        let (values, shape) = (prefixes.copied()?, &prefixes.shape);
        let allowed = py.detach(|| self.trie.allowed(&values, shape[0], shape[1]))?;
        Ok((allowed.offsets.into_pyarray(py), allowed.codes.into_pyarray(py)))
    }

    /// Codes of one level that may follow each node, as a mask.
    #[pyo3(signature = (nodes, level=None))]
    fn mask<'py>(
        &self,
        py: Python<'py>,
        nodes: &Bound<'py, PyAny>,
        level: Option<usize>,
    ) -> PyResult<Bound<'py, PyArray2<bool>>> {
        let nodes = Argument::<i64, Ix1>::new("nodes", nodes)?;
        let values = nodes.copied()?;
        let (level, mask) = py.detach(|| {
            let level = level.map_or_else(|| self.trie.level_of(&values), Ok)?;
            Ok::<_, Error>((level, self.trie.mask(&values, level)?))
        })?;
        to_table(py, (values.len(), self.trie.n_codes()[level]), mask)
    }

    /// The mask as bits, lowest first, eight codes per byte.
    #[pyo3(signature = (nodes, level=None))]
    fn mask_bits<'py>(
        &self,
        py: Python<'py>,
        nodes: &Bound<'py, PyAny>,
        level: Option<usize>,
    ) -> PyResult<Bound<'py, PyArray2<u8>>> {
        let nodes = Argument::<i64, Ix1>::new("nodes", nodes)?;
        let values = nodes.copied()?;
        let (level, mask) = py.detach(|| {
            let level = level.map_or_else(|| self.trie.level_of(&values), Ok)?;
            Ok::<_, Error>((level, self.trie.mask_bits(&values, level)?))
        })?;
        to_table(py, (values.len(), self.trie.n_codes()[level].div_ceil(8)), mask)
    }

    /// Node after one more code, -1 where there is none.
    #[pyo3(signature = (nodes, codes, /))]
    fn step<'py>(
        &self,
        py: Python<'py>,
        nodes: &Bound<'py, PyAny>,
        codes: &Bound<'py, PyAny>,
    ) -> PyResult<Rows<'py>> {
        let nodes = Argument::<i64, Ix1>::new("nodes", nodes)?;
        let codes = Argument::<u16, Ix1>::new("codes", codes)?;
        let (nodes, codes) = (nodes.copied()?, codes.copied()?);
        Ok(py.detach(|| self.trie.step(&nodes, &codes))?.into_pyarray(py))
    }

    /// Row of each semantic ID, -1 where no item has it.
    #[pyo3(signature = (codes, /, *, n_threads=None))]
    fn find<'py>(
        &self,
        py: Python<'py>,
        codes: &Bound<'py, PyAny>,
        n_threads: Option<isize>,
    ) -> PyResult<Rows<'py>> {
        let codes = Argument::<u16, Ix2>::new("codes", codes)?;
        let n_threads = threads(n_threads)?;
        let data = codes.copied()?;
        let found = py.detach(|| self.trie.find(Codes::new(&data, codes.shape[1])?, n_threads))?;
        Ok(found.into_pyarray(py))
    }

    /// The trie of some items, given by row or by mark; rows keep their numbers.
    #[pyo3(signature = (rows, /, *, n_threads=None))]
    fn restrict(
        &self,
        py: Python<'_>,
        rows: &Bound<'_, PyAny>,
        n_threads: Option<isize>,
    ) -> PyResult<Self> {
        let n_threads = threads(n_threads)?;
        if rows.cast::<PyArray1<bool>>().is_ok() {
            let marks = marks("rows", rows)?;
            return Ok(Self { trie: py.detach(|| self.trie.restrict(&marks, n_threads))? });
        }
        let rows = Argument::<i64, Ix1>::new("rows", rows)?.copied()?;
        Ok(Self { trie: py.detach(|| self.trie.restrict_to(&rows, n_threads))? })
    }

    fn __repr__(&self) -> String {
        let (n_items, n_codes) = (self.n_items(), self.n_codes());
        format!("CodeTrie(n_items={n_items}, n_codes={n_codes:?}, n_nodes={})", self.n_nodes())
    }
}

/// Lend an array of a trie, given by its bytes, to numpy.
#[allow(unsafe_code)] // bytes read as the numbers that they are, see below
fn view<'py, T: Element + Copy, D: IntoDimension>(
    owner: &Bound<'py, CodeTrie>,
    bytes: &[u8],
    shape: D,
) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: `T` is u8, u16 or u32, for which all bits are values. Arrays of a trie start at a
    // multiple of 64 bytes of a page or of memory aligned so, so that head and tail are empty.
    let (_, values, _) = unsafe { bytes.align_to::<T>() };
    lend(owner, values, shape)
}

/// Lend memory that a trie holds to numpy, for reading, without a copy.
#[allow(unsafe_code)] // memory that numpy does not own, see below
fn lend<'py, T: Element, D: IntoDimension>(
    owner: &Bound<'py, CodeTrie>,
    values: &[T],
    shape: D,
) -> PyResult<Bound<'py, PyAny>> {
    let view = ArrayView::from_shape(shape, values)
        .map_err(|error| pyo3::exceptions::PyRuntimeError::new_err(error.to_string()))?;
    // SAFETY: the array holds a reference to `owner`, which holds the memory; a trie is frozen, so
    // that the memory neither moves nor changes. Nobody has the array before it is read-only, and
    // numpy lets nobody change that, as `owner` is no buffer.
    let array = unsafe { PyArray::<T, D::Dim>::borrow_from_array(&view, owner.clone().into_any()) };
    array.call_method1("setflags", (false,))?;
    Ok(array.into_any())
}

/// Map a file for reading.
#[allow(unsafe_code)] // a file may change under its mapping, see below
fn map(path: &Path) -> io::Result<trie::store::Bytes> {
    let named = |error| with_path(error, path);
    regular(path, &fs::metadata(path).map_err(named)?)?; // opening a pipe waits for its writer
    let file = File::open(path).map_err(named)?;
    // SAFETY: a mapping is only as constant as its file. `save` never writes into a file that
    // exists, it replaces it, and then the mapping keeps the old one. A program that does write into
    // it can make the answers wrong and, if it cuts the file short, end this process: as for every
    // mapped file, numpy's too. No value that it writes leads to a read outside, as none is trusted.
    let mapping = unsafe { Mmap::map(&file).map_err(named)? };
    Ok(Arc::new(mapping))
}

/// Refuse what is no regular file: reading it may never end, and replacing it may break the system.
fn regular(path: &Path, found: &fs::Metadata) -> io::Result<()> {
    let (kind, got) = match found.file_type() {
        file if file.is_file() => return Ok(()),
        file if file.is_dir() => (io::ErrorKind::IsADirectory, "a folder"),
        file if file.is_symlink() => (io::ErrorKind::InvalidInput, "a link"),
        _ => (io::ErrorKind::InvalidInput, "a device or pipe"),
    };
    let path = path.display();
    let message = format!("`{path}`: expected a regular file, got {got}; choose another path");
    Err(io::Error::new(kind, message))
}

/// The longest part of a file's name that its temporary's name repeats: a name has 255 bytes.
const NAME_BYTES: usize = 60;

/// Write a file under another name beside it and then replace it, so that nobody sees half of it,
/// whenever the power fails.
fn replace(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) => regular(path, &found)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(with_path(error, path)),
    }
    let part = temporary(path);
    let write = || {
        let mut file = File::create_new(&part)?;
        parts.iter().try_for_each(|bytes| file.write_all(bytes))?;
        file.sync_all()?;
        drop(file);
        fs::rename(&part, path)?;
        sync_folder(path)
    };
    write().map_err(|error| {
        fs::remove_file(&part).unwrap_or_default();
        let n_bytes: usize = parts.iter().map(|bytes| bytes.len()).sum();
        without_room(error, path, n_bytes)
    })
}

/// A name that a run knows as that of an unfinished file, of this process and moment.
fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let long = name.char_indices().rev().map(|(start, _)| start);
    let start = long.take_while(|start| name.len() - start <= NAME_BYTES).last().unwrap_or(0);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (process, moment, end) = (std::process::id(), now.as_nanos(), &name[start..]);
    path.with_file_name(format!(".mql4grec.{process}.{moment}.{end}"))
}

/// Make a rename last: it is an entry of the folder.
fn sync_folder(path: &Path) -> io::Result<()> {
    if !cfg!(unix) {
        return Ok(()); // elsewhere a folder cannot be opened
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    match File::open(folder.unwrap_or(Path::new(".")))?.sync_all() {
        // Some file systems cannot, and keep their order themselves.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        done => done,
    }
}

/// Say what a full disk needs.
fn without_room(error: io::Error, path: &Path, n_bytes: usize) -> io::Error {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    if !matches!(error.kind(), FileTooLarge | QuotaExceeded | StorageFull) {
        return with_path(error, path);
    }
    let (kind, path) = (error.kind(), path.display());
    let message = format!(
        "`{path}`: expected room for {n_bytes} bytes, got less ({error}); free some, or choose \
         another folder"
    );
    io::Error::new(kind, message)
}

/// Keep the kind, which chooses the Python exception, and say which file it was.
fn with_path(error: io::Error, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("`{}`: {error}", path.display()))
}
