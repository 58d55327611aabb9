"""What can go wrong between a kernel's source and its report."""

from collections.abc import Sequence

from metal_kernels.emulator.report import Finding, Report


class EmulatorError(Exception):
    """Base of the errors below. ``str()`` is one line or one line per finding."""


class ToolchainError(EmulatorError):
    """No compiler that understands the emulator's flags was found."""


class CallError(EmulatorError):
    """A kernel was called with arrays, dtypes or a grid that do not fit it."""


class LintError(EmulatorError):
    """The source would not compile for a GPU, or breaks a rule the lint enforces. ``findings`` says where."""

    def __init__(self, findings: Sequence[Finding]):
        self.findings = list(findings)
        super().__init__("\n".join(str(finding) for finding in self.findings))


class KernelFault(EmulatorError):
    """A run could not be finished: out of bounds, divergence, undefined behaviour.

    ``report`` says where and how far it got.
    """

    def __init__(self, report: Report):
        self.report = report
        super().__init__("\n".join(str(finding) for finding in report.findings))
