"""The errors between a kernel's source and its report."""

from collections.abc import Sequence

from metal_kernels.emulator.report import Finding, Report


class EmulatorError(Exception):
    """The base of the errors below. ``str()`` is one line, or one line per finding."""


class ToolchainError(EmulatorError):
    """There is no compiler that takes the emulator's flags."""


class CallError(EmulatorError):
    """Arrays, dtypes or grid of a call do not fit the kernel."""


class LintError(EmulatorError):
    """The source would not compile for a GPU, or breaks a rule of the lint. ``findings`` tell where."""

    def __init__(self, findings: Sequence[Finding]):
        self.findings = list(findings)
        super().__init__("\n".join(str(finding) for finding in self.findings))


class KernelFault(EmulatorError):
    """A run could not finish: an access out of bounds, divergence, undefined behaviour.

    ``report`` tells where, and what was counted until then.
    """

    def __init__(self, report: Report):
        self.report = report
        super().__init__("\n".join(str(finding) for finding in report.findings))
