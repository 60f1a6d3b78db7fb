//! The binding: numpy arrays in and out, errors as exceptions, the GIL released around the work.
//! It does nothing else. Arrays that do not lie in C order are copied first.

mod trie;
mod waiting;

use std::borrow::Cow;

use numpy::ndarray::{Array2, Dimension, Ix1, Ix2, Ix3};
use numpy::{
    Element, IntoPyArray, PyArray, PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray,
    PyUntypedArray, PyUntypedArrayMethods,
};
use pyo3::exceptions::{PyKeyboardInterrupt, PyMemoryError, PyTypeError, PyValueError};
use pyo3::prelude::*;

use crate::codes::{CodeSpace, Codes, MAX_LEVELS};
use crate::collision::{self, Keep, Plan, Policy, Reassign, Resolution, RowRules};
use crate::distances::{DistanceTensor, Latents, RowList, Table};
use crate::error::Error;
use crate::memory;
use waiting::interruptible;

impl From<Error> for PyErr {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::Interrupted => PyKeyboardInterrupt::new_err(message),
            Error::Memory { .. } => PyMemoryError::new_err(message),
            _ => PyValueError::new_err(message),
        }
    }
}

type Rows<'py> = Bound<'py, PyArray1<i64>>;
type Resolved<'py> = (Bound<'py, PyArray2<u16>>, Rows<'py>, Bound<'py, PyArray1<f32>>);

/// An argument that is a numpy array of one dtype and number of dimensions.
///
/// For `np.zeros((3, 2), np.uint16)`:
///
/// ```text
/// array  the numpy array, borrowed
/// shape  3 2
/// ```
struct Argument<'py, T: Element, D: Dimension> {
    array: PyReadonlyArray<'py, T, D>,
    shape: Vec<usize>,
}

impl<'py, T: Element + Copy, D: Dimension> Argument<'py, T, D> {
    fn new(what: &str, object: &Bound<'py, PyAny>) -> PyResult<Self> {
        let Ok(array) = object.cast::<PyArray<T, D>>() else {
            return Err(wrong_type::<T, D>(what, object));
        };
        let shape = array.shape().to_vec();
        if array.as_untyped().is_aligned() {
            return Ok(Self { array: array.try_readonly()?, shape });
        }
        // A column of records, whose numbers need not lie at multiples of their size.
        let copy = array.call_method0("copy")?;
        Ok(Self { array: copy.cast::<PyArray<T, D>>()?.try_readonly()?, shape })
    }

    fn optional(what: &str, object: Option<&Bound<'py, PyAny>>) -> PyResult<Option<Self>> {
        object.map(|object| Self::new(what, object)).transpose()
    }

    fn values(&self) -> PyResult<Cow<'_, [T]>> {
        match self.array.as_array().to_slice() {
            Some(slice) => Ok(Cow::Borrowed(slice)),
            None => Ok(Cow::Owned(self.copied()?)),
        }
    }

    /// The values, out of reach of other threads, which may write into the array while the GIL is
    /// released.
    fn copied(&self) -> PyResult<Vec<T>> {
        let view = self.array.as_array();
        if let Some(slice) = view.to_slice() {
            return Ok(memory::copied(slice)?);
        }
        let mut values = memory::room(view.len())?;
        values.extend(view.iter().copied());
        Ok(values)
    }
}

/// The entries of a list with one per level. What claims to have more is refused before any is read:
/// a range may have 2^60.
fn per_level<'py, T: FromPyObjectOwned<'py>>(
    what: &'static str,
    object: &Bound<'py, PyAny>,
) -> PyResult<Vec<T>> {
    match object.len() {
        Ok(got) if got > MAX_LEVELS => Err(Error::Levels { what, got }.into()),
        _ => object.extract().map_err(|error| {
            let message = format!("`{what}`: expected a list with an entry per level, {error}");
            PyTypeError::new_err(message)
        }),
    }
}

/// Marks, any byte but 0 being one: numpy does not keep other bytes than 0 and 1 out of its bools.
fn marks(what: &str, object: &Bound<'_, PyAny>) -> PyResult<Vec<bool>> {
    if object.cast::<PyArray1<bool>>().is_err() {
        return Err(wrong_type::<bool, Ix1>(what, object));
    }
    let bytes = object.call_method1("view", ("uint8",))?;
    let bytes = Argument::<u8, Ix1>::new(what, &bytes)?;
    Ok(bytes.copied()?.into_iter().map(|byte| byte != 0).collect())
}

fn wrong_type<T: Element, D: Dimension>(what: &str, object: &Bound<'_, PyAny>) -> PyErr {
    let dtype = T::get_dtype(object.py());
    let n_dims = D::NDIM.unwrap_or_default();
    let got = match object.cast::<PyUntypedArray>() {
        Ok(array) => format!("{} with {} dimensions", array.dtype(), array.ndim()),
        Err(_) => format!("{}", object.get_type()),
    };
    PyTypeError::new_err(format!(
        "`{what}`: expected a numpy array of {dtype} with {n_dims} dimensions, got {got}"
    ))
}

fn to_rows<'py>(py: Python<'py>, rows: &[usize]) -> PyResult<Rows<'py>> {
    let mut numbers = memory::room(rows.len())?;
    numbers.extend(rows.iter().map(|&row| row as i64));
    Ok(numbers.into_pyarray(py))
}

fn to_table<'py, T: Element>(
    py: Python<'py>,
    shape: (usize, usize),
    values: Vec<T>,
) -> PyResult<Bound<'py, PyArray2<T>>> {
    let table = Array2::from_shape_vec(shape, values);
    Ok(table.map_err(|error| PyValueError::new_err(error.to_string()))?.into_pyarray(py))
}

fn to_resolved<'py>(
    py: Python<'py>,
    shape: (usize, usize),
    resolution: Resolution,
) -> PyResult<Resolved<'py>> {
    let codes = to_table(py, shape, resolution.codes)?;
    Ok((codes, to_rows(py, &resolution.moved)?, resolution.costs.into_pyarray(py)))
}

/// How many threads to use: as many as asked for, or as there are cores.
fn threads(n_threads: Option<isize>) -> PyResult<usize> {
    let Some(asked) = n_threads else {
        return Ok(std::thread::available_parallelism().map_or(1, usize::from));
    };
    let (what, expected, got) = ("n_threads", "at least 1", asked.to_string());
    let n_threads = usize::try_from(asked).ok().filter(|&n_threads| n_threads > 0);
    Ok(n_threads.ok_or(Error::Choice { what, expected, got })?)
}

/// How to resolve, from the names that Python uses.
fn plan(
    (policy, keep, reassign): (&str, &str, &str),
    open_levels: isize,
    n_threads: Option<isize>,
) -> PyResult<Plan> {
    let wrong =
        |what, expected, got: &str| Error::Choice { what, expected, got: format!("'{got}'") };
    Ok(Plan {
        policy: match policy {
            "paper" => Policy::Paper,
            "nearest" => Policy::Nearest,
            "optimal" => Policy::Optimal,
            _ => return Err(wrong("policy", "'paper', 'nearest' or 'optimal'", policy).into()),
        },
        keep: match keep {
            "nearest" => Keep::Nearest,
            "max_loss" => Keep::MaxLoss,
            _ => return Err(wrong("keep", "'nearest' or 'max_loss'", keep).into()),
        },
        reassign: match reassign {
            "movers" => Reassign::Movers,
            "colliding" => Reassign::Colliding,
            _ => return Err(wrong("reassign", "'movers' or 'colliding'", reassign).into()),
        },
        open_levels: usize::try_from(open_levels).map_err(|_| Error::Choice {
            what: "open_levels",
            expected: "2 to 8",
            got: open_levels.to_string(),
        })?,
        n_threads: threads(n_threads)?,
    })
}

/// Number all N rows, or those listed.
fn row_list(rows: Option<&[i64]>, n_rows: usize) -> crate::Result<RowList> {
    rows.map_or_else(|| Ok(RowList::all(n_rows)), |rows| RowList::some(rows, n_rows))
}

/// Find the rows that share a semantic ID: (offsets, rows) of the groups, in the order of their codes.
#[pyfunction]
#[pyo3(signature = (codes, /, *, n_threads=None))]
fn find_collisions<'py>(
    py: Python<'py>,
    codes: &Bound<'py, PyAny>,
    n_threads: Option<isize>,
) -> PyResult<(Rows<'py>, Rows<'py>)> {
    let codes = Argument::<u16, Ix2>::new("codes", codes)?;
    let n_threads = threads(n_threads)?;
    let table = codes.copied()?;
    let table = Codes::new(&table, codes.shape[1])?;
    let groups = interruptible(py, table.data().len(), |interrupt| {
        collision::find_collisions(table, n_threads, interrupt)
    })?;
    Ok((to_rows(py, &groups.offsets)?, to_rows(py, &groups.rows)?))
}

/// Count the distinct prefixes of 1 to L codes.
#[pyfunction]
#[pyo3(signature = (codes, /, *, n_threads=None))]
fn count_prefixes(
    py: Python<'_>,
    codes: &Bound<'_, PyAny>,
    n_threads: Option<isize>,
) -> PyResult<Vec<usize>> {
    let codes = Argument::<u16, Ix2>::new("codes", codes)?;
    let n_threads = threads(n_threads)?;
    let table = codes.copied()?;
    let table = Codes::new(&table, codes.shape[1])?;
    interruptible(py, table.data().len(), |interrupt| {
        collision::count_prefixes(table, n_threads, interrupt)
    })
}

/// Give every row codes of its own by given distances: (codes, moved rows, their costs).
#[pyfunction]
#[pyo3(signature = (
    codes, distances, /, *, policy="paper", keep="nearest", reassign="movers", open_levels=2,
    keys=None, frozen=None, rows=None, n_codes=None, n_threads=None
))]
#[allow(clippy::too_many_arguments)] // keywords in Python
fn resolve_collisions<'py>(
    py: Python<'py>,
    codes: &Bound<'py, PyAny>,
    distances: &Bound<'py, PyAny>,
    policy: &str,
    keep: &str,
    reassign: &str,
    open_levels: isize,
    keys: Option<&Bound<'py, PyAny>>,
    frozen: Option<&Bound<'py, PyAny>>,
    rows: Option<&Bound<'py, PyAny>>,
    n_codes: Option<&Bound<'_, PyAny>>,
    n_threads: Option<isize>,
) -> PyResult<Resolved<'py>> {
    let plan = plan((policy, keep, reassign), open_levels, n_threads)?;
    let codes = Argument::<u16, Ix2>::new("codes", codes)?;
    let distances = Argument::<f32, Ix3>::new("distances", distances)?;
    let keys = Argument::<u64, Ix1>::optional("keys", keys)?;
    let frozen = frozen.map(|frozen| marks("frozen", frozen)).transpose()?;
    let rows = Argument::<i64, Ix1>::optional("rows", rows)?;
    let n_codes = n_codes.map(|n_codes| per_level("n_codes", n_codes)).transpose()?;
    let (data, values) = (codes.copied()?, distances.values()?);
    let keys = keys.as_ref().map(Argument::copied).transpose()?;
    let rows = rows.as_ref().map(Argument::copied).transpose()?;
    let shape = [distances.shape[0], distances.shape[1], distances.shape[2]];
    let numbers = data.len().saturating_add(shape[2]);
    let resolution = interruptible(py, numbers, |interrupt| {
        let table = Codes::new(&data, codes.shape[1])?;
        let space = CodeSpace::new(&n_codes.unwrap_or_else(|| vec![shape[2]; table.n_levels()]))?;
        let rows = row_list(rows.as_deref(), table.n_rows())?;
        space.check(table)?;
        let distances = DistanceTensor::new(&values, shape, rows, &space)?;
        let rules = RowRules { keys: keys.as_deref(), frozen: frozen.as_deref() };
        collision::resolve_collisions(table, &space, &distances, rules, &plan, interrupt)
    })?;
    to_resolved(py, (codes.shape[0], codes.shape[1]), resolution)
}

/// Give every row codes of its own by distances computed from its latent: (codes, moved rows, costs).
#[pyfunction]
#[pyo3(signature = (
    codes, latents, codebooks, /, *, policy="paper", keep="nearest", reassign="movers",
    open_levels=2, keys=None, frozen=None, rows=None, n_threads=None
))]
#[allow(clippy::too_many_arguments)] // keywords in Python
fn resolve_collisions_from_latents<'py>(
    py: Python<'py>,
    codes: &Bound<'py, PyAny>,
    latents: &Bound<'py, PyAny>,
    codebooks: &Bound<'py, PyAny>,
    policy: &str,
    keep: &str,
    reassign: &str,
    open_levels: isize,
    keys: Option<&Bound<'py, PyAny>>,
    frozen: Option<&Bound<'py, PyAny>>,
    rows: Option<&Bound<'py, PyAny>>,
    n_threads: Option<isize>,
) -> PyResult<Resolved<'py>> {
    let plan = plan((policy, keep, reassign), open_levels, n_threads)?;
    let codes = Argument::<u16, Ix2>::new("codes", codes)?;
    let latents = Argument::<f32, Ix2>::new("latents", latents)?;
    let codebooks = per_level::<Bound<'py, PyAny>>("codebooks", codebooks)?;
    let books = codebooks.iter().map(|book| Argument::<f32, Ix2>::new("codebooks", book));
    let books = books.collect::<PyResult<Vec<_>>>()?;
    let keys = Argument::<u64, Ix1>::optional("keys", keys)?;
    let frozen = frozen.map(|frozen| marks("frozen", frozen)).transpose()?;
    let rows = Argument::<i64, Ix1>::optional("rows", rows)?;
    let (data, values) = (codes.copied()?, latents.values()?);
    let book_values = books.iter().map(Argument::values).collect::<PyResult<Vec<_>>>()?;
    let book_shapes: Vec<_> = books.iter().map(|book| [book.shape[0], book.shape[1]]).collect();
    let keys = keys.as_ref().map(Argument::copied).transpose()?;
    let rows = rows.as_ref().map(Argument::copied).transpose()?;
    let shape = [latents.shape[0], latents.shape[1]];
    let numbers = book_shapes.iter().fold(data.len(), |sum, shape| sum.saturating_add(shape[0]));
    let resolution = interruptible(py, numbers, |interrupt| {
        let table = Codes::new(&data, codes.shape[1])?;
        let latents = Table::new("latents", &values, shape)?;
        let books = book_values.iter().zip(&book_shapes);
        let books = books.map(|(values, &shape)| Table::new("codebooks", values, shape));
        let books = books.collect::<crate::Result<Vec<_>>>()?;
        if books.len() != table.n_levels() {
            let (expected, got) = (table.n_levels(), books.len());
            return Err(Error::LevelCount { what: "codebooks", expected, got });
        }
        let rows = row_list(rows.as_deref(), table.n_rows())?;
        // Before the vectors are looked at: vectors of no numbers take no memory, however many.
        let space = CodeSpace::new(&books.iter().map(Table::n_rows).collect::<Vec<_>>())?;
        let distances = Latents::new(latents, rows, &books, interrupt)?;
        let rules = RowRules { keys: keys.as_deref(), frozen: frozen.as_deref() };
        collision::resolve_collisions(table, &space, &distances, rules, &plan, interrupt)
    })?;
    to_resolved(py, (codes.shape[0], codes.shape[1]), resolution)
}

/// Rust core of mql4grec: collisions of semantic IDs and the trie of those that exist.
#[pymodule]
mod _core {
    #[pymodule_export]
    use super::{
        count_prefixes, find_collisions, resolve_collisions, resolve_collisions_from_latents,
        trie::CodeTrie,
    };
}
