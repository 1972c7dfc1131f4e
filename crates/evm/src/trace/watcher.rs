//! Who watches an execution: one of the tracers that are offered, within bounds.
//!
//! What is counted is what the answer repeats, also where the tracer shares it: the stack, memory,
//! storage and return data at each step, and the input, output and logs of each call.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::{Address, Log, U256};
use alloy_rpc_types_trace::geth::{
    GethDebugBuiltInTracerType as Offered, GethDebugTracerType, GethDebugTracingOptions,
};
use revm::{
    Inspector,
    bytecode::opcode::{SLOAD, SSTORE},
    context::{ContextError, ContextTr},
    handler::FrameResult,
    inspector::{JournalExt, NoOpInspector},
    interpreter::{
        CallInputs, CallOutcome, CreateInputs, CreateOutcome, FrameInput, Interpreter,
        interpreter_types::{InputsTr, Jumps, ReturnData},
    },
};
use revm_inspectors::tracing::DebugInspector;

use super::TraceError;

/// The most steps that are recorded for one request, however many transactions it traces.
pub const MAX_STEPS: usize = 1_000_000;

/// The most bytes that are recorded for one request, however many transactions it traces.
pub const MAX_RECORDED_BYTES: usize = 256 * 1024 * 1024;

/// What a recorded step, or a call, takes besides what varies in length.
const STEP_BYTES: usize = 256;
/// What a word on the stack takes.
const WORD_BYTES: usize = 32;
/// What a slot of the storage takes: its key and its value.
pub(super) const SLOT_BYTES: usize = 64;

/// A tracer that stops the execution when it has recorded too much.
#[derive(Debug)]
pub(super) struct Watcher {
    tracer: DebugInspector,
    records_stack: bool,
    records_memory: bool,
    records_storage: bool,
    records_return_data: bool,
    /// The slots that the transaction has touched, all of which a step that touches one shows.
    touched: BTreeMap<Address, BTreeSet<U256>>,
    steps: usize,
    bytes: usize,
}

impl Watcher {
    /// The tracer that the options ask for.
    pub(super) fn new(options: &GethDebugTracingOptions) -> Result<Self, TraceError> {
        match &options.tracer {
            None
            | Some(GethDebugTracerType::BuiltInTracer(
                Offered::CallTracer
                | Offered::FlatCallTracer
                | Offered::PreStateTracer
                | Offered::FourByteTracer
                | Offered::MuxTracer
                | Offered::NoopTracer,
            )) => (),
            Some(other) if other.as_str().is_empty() => (),
            Some(other) => return Err(TraceError::UnknownTracer(other.as_str().to_owned())),
        }
        let tracer = DebugInspector::new(options.clone()).map_err(|_| TraceError::InvalidConfig)?;
        Ok(Self {
            tracer,
            records_stack: !options.config.disable_stack.unwrap_or_default(),
            records_memory: options.config.enable_memory.unwrap_or_default(),
            records_storage: !options.config.disable_storage.unwrap_or_default(),
            records_return_data: options.config.enable_return_data.unwrap_or_default(),
            ..Self::default()
        })
    }

    /// Forgets what it saw of a transaction. What it has recorded counts for the whole request.
    pub(super) fn restart(&mut self) -> Result<(), TraceError> {
        self.touched.clear();
        self.tracer.fuse().map_err(|_| TraceError::InvalidConfig)
    }

    /// Whether it has seen too much: then it stops the execution at the next step.
    pub(super) const fn is_full(&self) -> bool {
        self.steps > MAX_STEPS || self.bytes > MAX_RECORDED_BYTES
    }

    /// Counts bytes of the answer.
    pub(super) const fn count(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Counts bytes of a call, for the tracers that show calls.
    fn count_call(&mut self, bytes: usize) {
        if self.keeps_calls() {
            self.count(bytes);
        }
    }

    /// Counts a step with all that the struct logger shows of it.
    fn count_step(&mut self, interpreter: &Interpreter) {
        let mut bytes = STEP_BYTES;
        if self.records_stack {
            bytes += interpreter.stack.len() * WORD_BYTES;
        }
        if self.records_memory {
            bytes += interpreter.memory.len();
        }
        if self.records_return_data {
            bytes += interpreter.return_data.buffer().len();
        }
        if self.records_storage
            && matches!(interpreter.bytecode.opcode(), SLOAD | SSTORE)
            && let Ok(slot) = interpreter.stack.peek(0)
        {
            let slots = self.touched.entry(interpreter.input.target_address()).or_default();
            slots.insert(slot);
            bytes += slots.len() * SLOT_BYTES;
        }
        self.steps += 1;
        self.count(bytes);
    }

    /// What knows what it saw.
    pub(super) fn debug(&mut self) -> &mut DebugInspector {
        &mut self.tracer
    }

    /// Whether it keeps the calls that it sees.
    const fn keeps_calls(&self) -> bool {
        match &self.tracer {
            DebugInspector::Default(..)
            | DebugInspector::CallTracer(..)
            | DebugInspector::PreStateTracer(..)
            | DebugInspector::FlatCallTracer(_)
            | DebugInspector::Erc7562Tracer(..)
            | DebugInspector::Mux(..) => true,
            DebugInspector::FourByte(_)
            | DebugInspector::Noop(_)
            | DebugInspector::StateGasTracer(_) => false,
        }
    }
}

/// Sees nothing.
impl Default for Watcher {
    fn default() -> Self {
        Self {
            tracer: DebugInspector::Noop(NoOpInspector),
            records_stack: false,
            records_memory: false,
            records_storage: false,
            records_return_data: false,
            touched: BTreeMap::new(),
            steps: 0,
            bytes: 0,
        }
    }
}

impl<C: ContextTr<Journal: JournalExt>> Inspector<C> for Watcher {
    fn initialize_interp(&mut self, interpreter: &mut Interpreter, context: &mut C) {
        self.tracer.initialize_interp(interpreter, context);
    }

    fn step(&mut self, interpreter: &mut Interpreter, context: &mut C) {
        // Only the struct logger records every step.
        if matches!(self.tracer, DebugInspector::Default(..)) {
            self.count_step(interpreter);
        }
        if self.is_full() {
            *context.error() = Err(ContextError::Custom("too much to record".to_owned()));
            interpreter.halt_fatal();
            return;
        }
        self.tracer.step(interpreter, context);
    }

    fn step_end(&mut self, interpreter: &mut Interpreter, context: &mut C) {
        if !self.is_full() {
            self.tracer.step_end(interpreter, context);
        }
    }

    fn log(&mut self, context: &mut C, log: Log) {
        self.count_call(STEP_BYTES + log.data.data.len());
        self.tracer.log(context, log);
    }

    fn log_full(&mut self, interpreter: &mut Interpreter, context: &mut C, log: Log) {
        self.count_call(STEP_BYTES + log.data.data.len());
        self.tracer.log_full(interpreter, context, log);
    }

    fn frame_start(&mut self, context: &mut C, input: &mut FrameInput) -> Option<FrameResult> {
        self.tracer.frame_start(context, input)
    }

    fn frame_end(&mut self, context: &mut C, input: &FrameInput, result: &mut FrameResult) {
        self.tracer.frame_end(context, input, result);
    }

    fn call(&mut self, context: &mut C, inputs: &mut CallInputs) -> Option<CallOutcome> {
        self.count_call(STEP_BYTES + inputs.input.len());
        self.tracer.call(context, inputs)
    }

    fn call_end(&mut self, context: &mut C, inputs: &CallInputs, outcome: &mut CallOutcome) {
        self.count_call(outcome.result.output.len());
        self.tracer.call_end(context, inputs, outcome);
    }

    fn create(&mut self, context: &mut C, inputs: &mut CreateInputs) -> Option<CreateOutcome> {
        self.count_call(STEP_BYTES + inputs.init_code().len());
        self.tracer.create(context, inputs)
    }

    fn create_end(&mut self, context: &mut C, inputs: &CreateInputs, outcome: &mut CreateOutcome) {
        self.count_call(outcome.result.output.len());
        self.tracer.create_end(context, inputs, outcome);
    }

    fn selfdestruct(&mut self, contract: Address, target: Address, value: U256) {
        <DebugInspector as Inspector<C>>::selfdestruct(&mut self.tracer, contract, target, value);
    }
}
