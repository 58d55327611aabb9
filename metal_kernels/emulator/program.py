"""The C++ of a run: a kernel's source, and the function that the runtime calls in every thread. Compiles nothing."""

from metal_kernels.emulator import toolchain as tools
from metal_kernels.emulator.signature import Function
from metal_kernels.emulator.source_edit import edit


def program(function: Function) -> str:
    """Return the source that a run compiles, every function inlined."""
    arguments = []
    index = 0
    for parameter in function.parameters:
        if parameter.kind == "buffer":
            number = int(parameter.name) if parameter.name.isdigit() else index
            arguments.append(f"{{buffers[{number}], nullptr}}")
            index += 1
        else:
            arguments.append(f"{{nullptr, ids->{parameter.name}}}")
    return (
        f"{tools.PRELUDE}{tools.INLINE_ALL}{edit(function.source)}"
        f'\n{tools.INLINE_END}#line 1 "<emulator>"\n'
        f'extern "C" void emu_entry(void** buffers) {{\n  const emu_ids* ids = emu_self();\n'
        f"  const emu_argument arguments[] = {{{', '.join(arguments)}}};\n  (void)ids;\n"
        f"  emu_call({function.expression}, arguments);\n}}\n"
    )
