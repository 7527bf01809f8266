//! ONNX models, run in this process by the ONNX Runtime library. What a model asks of the library is computing only:
//! graphs with data in other files or operators from other libraries are left to a worker.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use millgate_scoring::{
    Column, ColumnData, ContentType, Data, Inputs, Kind, Output, Predictions, Signature, Values,
};
use millgate_types::{Fault, Retry, code};
use ort::environment::Environment;
use ort::session::{Session, SessionInputValue};
use ort::value::{DynValue, Tensor, TensorElementType, ValueType};
use serde_json::Value;

use super::{Form, NativeModel, matrix, rejected};
use crate::model_file::ModelFile;

/// The largest model file, in bytes.
const FILE_LIMIT: u64 = 1 << 30;
/// Sessions of one model at most: each holds the model once.
const MOST_SESSIONS: usize = 8;
/// A tree walk takes about as long as this, in nanoseconds.
const WALK: u128 = 60;

/// A graph's sessions. A session runs one request at a time.
#[derive(Debug)]
pub(super) struct Pool {
    sessions: Vec<Mutex<Session>>,
    next: AtomicUsize,
}

/// What goes into a graph and what comes out, by name.
pub(super) struct Ends {
    pub(super) inputs: Vec<(String, ValueType)>,
    pub(super) outputs: Vec<(String, ValueType)>,
}

impl Pool {
    /// Opens a graph: one session first, and the others when `check` is content with it.
    pub(super) fn open<T>(
        library: &Path,
        bytes: &[u8],
        check: impl FnOnce(Ends) -> Result<T, String>,
    ) -> Result<(Self, T), String> {
        // The key of an entry that names another file: field 1, eight bytes.
        if bytes.windows(10).any(|part| part == b"\x0a\x08location") {
            return Err("the model keeps data in other files".to_owned());
        }
        let environment = environment(library)?;
        let session = || -> Result<Session, String> {
            let refused = |_| "the ONNX Runtime refuses the model".to_owned();
            let mut builder = Session::builder(environment).map_err(refused)?;
            builder = builder.with_intra_threads(1).map_err(|_| "the ONNX Runtime takes no options")?;
            builder = builder.with_inter_threads(1).map_err(|_| "the ONNX Runtime takes no options")?;
            builder.commit_from_memory(bytes).map_err(|error| {
                let text: String = error.to_string().chars().filter(|c| !c.is_control()).take(200).collect();
                format!("the ONNX Runtime refuses the model: {text}")
            })
        };
        let first = session()?;
        let inputs = first.inputs().iter().map(|input| (input.name().to_owned(), input.dtype().clone()));
        let outputs = first.outputs().iter().map(|output| (output.name().to_owned(), output.dtype().clone()));
        let checked = check(Ends { inputs: inputs.collect(), outputs: outputs.collect() })?;
        let count = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_SESSIONS);
        let mut sessions = vec![Mutex::new(first)];
        for _ in 1..count {
            sessions.push(Mutex::new(session()?));
        }
        Ok((Self { sessions, next: AtomicUsize::new(0) }, checked))
    }

    /// One that is free, or the next in turn.
    pub(super) fn session(&self) -> MutexGuard<'_, Session> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let count = self.sessions.len();
        let free = (0..count).find_map(|step| self.sessions[(turn + step) % count].try_lock().ok());
        free.unwrap_or_else(|| self.sessions[turn % count].lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A model with its sessions.
#[derive(Debug)]
pub(super) struct Onnx {
    pool: Pool,
    input: String,
    element: TensorElementType,
    width: usize,
    outputs: Vec<String>,
    /// The cost of one row, in tree walks.
    row: usize,
}

/// The library beside a Python: `onnxruntime/capi/libonnxruntime.so.X.Y.Z` below one of its folders.
pub(crate) fn find(folders: &[PathBuf]) -> Option<PathBuf> {
    folders.iter().find_map(|folder| {
        let entries = std::fs::read_dir(folder.join("onnxruntime/capi")).ok()?;
        let mut found: Vec<PathBuf> = entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
        found.retain(|path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("libonnxruntime.so"))
        });
        found.into_iter().max()
    })
}

/// The library, loaded once for the process.
fn environment(library: &Path) -> Result<&'static Environment, String> {
    static LOADED: OnceLock<Result<(PathBuf, Environment), String>> = OnceLock::new();
    let loaded = LOADED.get_or_init(|| {
        let builder = ort::init_from(library)
            .map_err(|_| "the ONNX Runtime library cannot be loaded, or is older than 1.22".to_owned())?;
        let environment = builder.with_name("millgate").with_telemetry(false).build();
        let environment = environment.map_err(|_| "the ONNX Runtime cannot be started".to_owned())?;
        Ok((library.to_owned(), environment))
    });
    match loaded {
        Ok((known, _)) if known != library => {
            Err("another ONNX Runtime library is loaded already".to_owned())
        }
        Ok((_, environment)) => Ok(environment),
        Err(why) => Err(why.clone()),
    }
}

/// Loads a model and answers its input example. The error says why a worker must serve it.
pub(crate) fn load(library: &Path, model: &ModelFile) -> Result<NativeModel, String> {
    let flavor = model.flavor("onnx").ok_or("the model has no onnx flavour")?;
    let name = flavor.get("data").and_then(Value::as_str).ok_or("the flavour names no file")?;
    let path = model.file(name).ok_or("the model file is missing")?;
    if std::fs::metadata(&path).map_or(u64::MAX, |meta| meta.len()) > FILE_LIMIT {
        return Err("the model file is too large to run in process".to_owned());
    }
    let bytes = std::fs::read(&path).map_err(|error| format!("the model file: {}", error.kind()))?;
    let (pool, (input, element, width, outputs)) = Pool::open(library, &bytes, |ends| {
        let [(input, kind)] = ends.inputs.as_slice() else {
            return Err("the graph has more than one input".to_owned());
        };
        let ValueType::Tensor { ty: element, shape, .. } = kind else {
            return Err("the graph's input is not a tensor".to_owned());
        };
        let outputs = ends.outputs.into_iter().map(|(name, kind)| match kind {
            ValueType::Tensor { ty, .. } if is_known(ty) => Ok(name),
            _ => Err(format!("the graph's output `{name}` is of a type that is not read")),
        });
        let outputs = outputs.collect::<Result<Vec<_>, _>>()?;
        let width = check_signature(&model.signature, *element, shape)?;
        Ok((input.clone(), *element, width, outputs))
    })?;
    let mut onnx = Onnx { pool, input, element, width, outputs, row: 1 };
    onnx.try_out(model)?;
    Ok(NativeModel { form: Form::Onnx(onnx) })
}

fn is_known(element: TensorElementType) -> bool {
    use TensorElementType as E;
    matches!(
        element,
        E::Float32 | E::Float64 | E::Int64 | E::Int32 | E::Int8 | E::Int16 | E::Uint8 | E::Bool | E::String
    )
}

/// Values in a row. The signature must give numbers of the type that Python would hand over.
fn check_signature(
    signature: &Signature,
    element: TensorElementType,
    shape: &[i64],
) -> Result<usize, String> {
    let (width, floats) = match &signature.inputs {
        None => return Err("the model has no signature".to_owned()),
        Some(Inputs::Tensors(tensors)) => match tensors.as_slice() {
            [tensor] if tensor.name.is_none() && tensor.shape.len() == 2 && tensor.shape[1] > 0 => {
                (tensor.shape[1] as usize, tensor.dtype.as_str())
            }
            _ => return Err("the signature is not one unnamed two-dimensional tensor".to_owned()),
        },
        Some(Inputs::Columns(columns)) => {
            let any = |kind: &Kind| columns.iter().any(|column| column.kind == *kind);
            let number = |column: &Column| {
                matches!(column.kind, Kind::Integer | Kind::Long | Kind::Float | Kind::Double)
            };
            if !columns.iter().all(number) {
                return Err("the signature has columns that are not numbers".to_owned());
            }
            // numpy's common type.
            let mixed = any(&Kind::Float) && (any(&Kind::Integer) || any(&Kind::Long));
            let common = if any(&Kind::Double) || mixed {
                "float64"
            } else if any(&Kind::Float) {
                "float32"
            } else if any(&Kind::Long) {
                "int64"
            } else {
                "int32"
            };
            (columns.len(), common)
        }
    };
    // MLflow makes 32-bit numbers of 64-bit ones where the graph wants them, and converts nothing else.
    let fits = matches!(
        (floats, element),
        ("float64" | "float32", TensorElementType::Float32)
            | ("float64", TensorElementType::Float64)
            | ("int64", TensorElementType::Int64)
            | ("int32", TensorElementType::Int32)
    );
    let shaped = matches!(shape, [_, inner] if *inner < 0 || *inner == width as i64);
    if fits && shaped { Ok(width) } else { Err("the graph's input does not fit the signature".to_owned()) }
}

impl Onnx {
    /// Answers the input example, or a row of zeros, and takes the time.
    fn try_out(&mut self, model: &ModelFile) -> Result<(), String> {
        let fails = |fault: Fault| format!("its input example fails: {}", fault.public);
        if let Some(example) = &model.example {
            let checked =
                millgate_scoring::check(example, ContentType::Json, &model.signature).map_err(fails)?;
            if let Some(data) = checked.data {
                self.predict(&data).map_err(fails)?;
            }
        }
        let zeros = millgate_scoring::Matrix { rows: 1, width: self.width, values: vec![0.0; self.width] };
        let began = Instant::now();
        self.run(&Data::Matrix(zeros), false).map_err(fails)?;
        self.row = usize::try_from(began.elapsed().as_nanos() / WALK).unwrap_or(usize::MAX).max(1);
        Ok(())
    }

    pub(super) fn work(&self) -> usize {
        self.row
    }

    pub(super) fn predict(&self, data: &Data) -> Result<Predictions, Fault> {
        // A table is answered with a table.
        self.run(data, matches!(data, Data::Frame(_)))
    }

    fn run(&self, data: &Data, records: bool) -> Result<Predictions, Fault> {
        let fails = |error: ort::Error| {
            Fault::worker(code::MODEL_FAILED, Retry::NextTarget, "the ONNX Runtime failed").with_cause(error)
        };
        let rows = match data {
            Data::Frame(frame) => frame.rows,
            Data::Matrix(matrix) => matrix.rows,
        };
        if let Data::Frame(frame) = data
            && frame.columns.iter().any(|column| matches!(column, ColumnData::Missing))
        {
            return Err(rejected(format!("the model needs all of its {} columns", self.width)));
        }
        let shape = [rows, self.width];
        let value: DynValue = match self.element {
            TensorElementType::Float32 => {
                Tensor::from_array((shape, matrix(data, self.width, |v| v as f32, |v| v as f64 as f32)?))
                    .map_err(fails)?
                    .into_dyn()
            }
            TensorElementType::Float64 => {
                Tensor::from_array((shape, matrix(data, self.width, |v| v, |v| v as f64)?))
                    .map_err(fails)?
                    .into_dyn()
            }
            TensorElementType::Int64 => {
                Tensor::from_array((shape, matrix(data, self.width, |v| v as i64, |v| v)?))
                    .map_err(fails)?
                    .into_dyn()
            }
            _ => Tensor::from_array((shape, matrix(data, self.width, |v| v as i32, |v| v as i32)?))
                .map_err(fails)?
                .into_dyn(),
        };
        let input = vec![(std::borrow::Cow::Borrowed(self.input.as_str()), SessionInputValue::from(value))];
        let mut session = self.pool.session();
        let answered = session.run(input).map_err(fails)?;
        let mut outputs = Vec::with_capacity(self.outputs.len());
        for name in &self.outputs {
            let missing =
                || Fault::worker(code::MODEL_FAILED, Retry::NextTarget, "the graph left an output out");
            let value = answered.get(name).ok_or_else(missing)?;
            outputs.push(output(name, value).map_err(fails)?);
        }
        let lengths = outputs.iter().map(|output| output.shape.iter().product::<usize>());
        let mut lengths = lengths.collect::<Vec<_>>();
        lengths.dedup();
        if records && lengths.len() > 1 {
            // pandas makes no table of such outputs.
            let text = "the model's outputs differ in length: ask it with a tensor signature";
            return Err(Fault::worker(code::MODEL_FAILED, Retry::NextTarget, text));
        }
        Ok(Predictions::Outputs { records, outputs })
    }
}

/// One output of a graph.
pub(super) fn output(name: &str, value: &DynValue) -> ort::Result<Output> {
    use TensorElementType as E;
    let ValueType::Tensor { ty, shape, .. } = value.dtype() else {
        return Err(ort::Error::new("not a tensor"));
    };
    let shape = shape.iter().map(|size| usize::try_from(*size).unwrap_or(0)).collect();
    let values = match ty {
        E::Float32 => Values::Floats(value.try_extract_tensor::<f32>()?.1.to_vec()),
        E::Float64 => Values::Doubles(value.try_extract_tensor::<f64>()?.1.to_vec()),
        E::Int64 => Values::Integers(value.try_extract_tensor::<i64>()?.1.to_vec()),
        E::Int32 => Values::Integers(widen(value.try_extract_tensor::<i32>()?.1)),
        E::Int16 => Values::Integers(widen(value.try_extract_tensor::<i16>()?.1)),
        E::Int8 => Values::Integers(widen(value.try_extract_tensor::<i8>()?.1)),
        E::Uint8 => Values::Integers(widen(value.try_extract_tensor::<u8>()?.1)),
        E::Bool => Values::Truths(value.try_extract_tensor::<bool>()?.1.to_vec()),
        E::String => Values::Texts(value.try_extract_strings()?.1),
        _ => return Err(ort::Error::new("a type that is not read")),
    };
    Ok(Output { name: name.to_owned(), shape, values })
}

fn widen<T: Copy + Into<i64>>(values: &[T]) -> Vec<i64> {
    values.iter().map(|value| (*value).into()).collect()
}
