//! Who watches an execution: one of the tracers that are offered, within bounds.

use alloy_primitives::{Address, Log, U256};
use alloy_rpc_types_trace::geth::{
    GethDebugBuiltInTracerType as Offered, GethDebugTracerType, GethDebugTracingOptions,
};
use revm::{
    Inspector,
    context::{ContextError, ContextTr},
    handler::FrameResult,
    inspector::{JournalExt, NoOpInspector},
    interpreter::{CallInputs, CallOutcome, CreateInputs, CreateOutcome, FrameInput, Interpreter},
};
use revm_inspectors::tracing::{DebugInspector, TraceLimitBehavior, TraceLimits, TracingInspector};

use super::TraceError;

/// The most steps that are recorded for one request, however many transactions it traces.
pub const MAX_STEPS: usize = 1_000_000;

/// The most bytes of stack and memory that are recorded with the steps of one request, and the most
/// bytes of inputs of one transaction.
pub const MAX_RECORDED_BYTES: usize = 256 * 1024 * 1024;

/// What a recorded step takes besides its stack and its memory.
const STEP_BYTES: usize = 256;
/// What a word on the stack takes.
const WORD_BYTES: usize = 32;

/// A tracer that stops the execution when it has recorded too much.
#[derive(Debug)]
pub(super) struct Watcher {
    tracer: DebugInspector,
    records_stack: bool,
    records_memory: bool,
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
                | Offered::PreStateTracer
                | Offered::FourByteTracer
                | Offered::NoopTracer,
            )) => (),
            Some(other) if other.as_str().is_empty() => (),
            Some(other) => return Err(TraceError::UnknownTracer(other.as_str().to_owned())),
        }
        let tracer = DebugInspector::new(options.clone()).map_err(|_| TraceError::InvalidConfig)?;
        let mut watcher = Self {
            tracer,
            records_stack: !options.config.disable_stack.unwrap_or_default(),
            records_memory: options.config.enable_memory.unwrap_or_default(),
            steps: 0,
            bytes: 0,
        };
        if let Some(recorder) = watcher.recorder_mut() {
            let limits = TraceLimits::default()
                .set_max_recorded_bytes(Some(MAX_RECORDED_BYTES))
                .set_behavior(TraceLimitBehavior::Halt);
            *recorder = std::mem::take(recorder).with_limits(limits);
        }
        Ok(watcher)
    }

    /// Forgets what it saw of a transaction. What it has recorded counts for the whole request.
    pub(super) fn restart(&mut self) -> Result<(), TraceError> {
        self.tracer.fuse().map_err(|_| TraceError::InvalidConfig)
    }

    /// Whether it stopped the execution.
    pub(super) fn is_full(&self) -> bool {
        self.has_enough() || self.recorder().is_some_and(TracingInspector::limit_exceeded)
    }

    /// Whether nothing more is recorded.
    const fn has_enough(&self) -> bool {
        self.steps > MAX_STEPS || self.bytes > MAX_RECORDED_BYTES
    }

    /// What knows what it saw.
    pub(super) fn debug(&mut self) -> &mut DebugInspector {
        &mut self.tracer
    }

    /// What records, for the tracers that do.
    fn recorder(&self) -> Option<&TracingInspector> {
        match &self.tracer {
            DebugInspector::Default(recorder, _)
            | DebugInspector::CallTracer(recorder, _)
            | DebugInspector::PreStateTracer(recorder, _)
            | DebugInspector::FlatCallTracer(recorder)
            | DebugInspector::Erc7562Tracer(recorder, _) => Some(recorder),
            DebugInspector::FourByte(_)
            | DebugInspector::Noop(_)
            | DebugInspector::StateGasTracer(_)
            | DebugInspector::Mux(..) => None,
        }
    }

    fn recorder_mut(&mut self) -> Option<&mut TracingInspector> {
        match &mut self.tracer {
            DebugInspector::Default(recorder, _)
            | DebugInspector::CallTracer(recorder, _)
            | DebugInspector::PreStateTracer(recorder, _)
            | DebugInspector::FlatCallTracer(recorder)
            | DebugInspector::Erc7562Tracer(recorder, _) => Some(recorder),
            DebugInspector::FourByte(_)
            | DebugInspector::Noop(_)
            | DebugInspector::StateGasTracer(_)
            | DebugInspector::Mux(..) => None,
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
            self.steps += 1;
            let stack = if self.records_stack { interpreter.stack.len() * WORD_BYTES } else { 0 };
            let memory = if self.records_memory { interpreter.memory.len() } else { 0 };
            self.bytes = self.bytes.saturating_add(STEP_BYTES + stack + memory);
            if self.has_enough() {
                *context.error() = Err(ContextError::Custom("too much to record".to_owned()));
                interpreter.halt_fatal();
                return;
            }
        }
        self.tracer.step(interpreter, context);
    }

    fn step_end(&mut self, interpreter: &mut Interpreter, context: &mut C) {
        if !self.has_enough() {
            self.tracer.step_end(interpreter, context);
        }
    }

    fn log(&mut self, context: &mut C, log: Log) {
        self.tracer.log(context, log);
    }

    fn log_full(&mut self, interpreter: &mut Interpreter, context: &mut C, log: Log) {
        self.tracer.log_full(interpreter, context, log);
    }

    fn frame_start(&mut self, context: &mut C, input: &mut FrameInput) -> Option<FrameResult> {
        self.tracer.frame_start(context, input)
    }

    fn frame_end(&mut self, context: &mut C, input: &FrameInput, result: &mut FrameResult) {
        self.tracer.frame_end(context, input, result);
    }

    fn call(&mut self, context: &mut C, inputs: &mut CallInputs) -> Option<CallOutcome> {
        self.tracer.call(context, inputs)
    }

    fn call_end(&mut self, context: &mut C, inputs: &CallInputs, outcome: &mut CallOutcome) {
        self.tracer.call_end(context, inputs, outcome);
    }

    fn create(&mut self, context: &mut C, inputs: &mut CreateInputs) -> Option<CreateOutcome> {
        self.tracer.create(context, inputs)
    }

    fn create_end(&mut self, context: &mut C, inputs: &CreateInputs, outcome: &mut CreateOutcome) {
        self.tracer.create_end(context, inputs, outcome);
    }

    fn selfdestruct(&mut self, contract: Address, target: Address, value: U256) {
        <DebugInspector as Inspector<C>>::selfdestruct(&mut self.tracer, contract, target, value);
    }
}
