"""Codex's ``apply_patch``: the grammar that it sends, and patches applied as it says."""

GRAMMAR = """start: begin_patch hunk+ end_patch
begin_patch: "*** Begin Patch" LF
end_patch: "*** End Patch" LF?

hunk: add_hunk | delete_hunk | update_hunk
add_hunk: "*** Add File: " filename LF add_line+
delete_hunk: "*** Delete File: " filename LF
update_hunk: "*** Update File: " filename LF change_move? change?

filename: /(.+)/
add_line: "+" /(.*)/ LF -> line

change_move: "*** Move to: " filename LF
change: (change_context | change_line)+ eof_line?
change_context: ("@@" | "@@ " /(.+)/) LF
change_line: ("+" | "-" | " ") /(.*)/ LF
eof_line: "*** End of File" LF

%import common.LF
"""
PATCH = (
    "*** Begin Patch\n*** Add File: new.txt\n+one\n+\n*** Delete File: old.py\n"
    "*** Update File: sums.py\n@@ def add(a, b):\n-    return a - b\n+    return a + b\n*** End Patch\n"
)


def applied(patch, files):
    """Return what ``files``, texts by name, are after a patch of files to add, delete and update."""
    begin, *body, end = patch.splitlines()
    assert (begin, end) == ("*** Begin Patch", "*** End Patch")
    files = dict(files)
    for section in "\n".join(body).split("*** ")[1:]:
        head, *lines = section.removesuffix("\n").split("\n")
        what, name = head.split(" File: ")
        if what == "Delete":
            del files[name]
        elif what == "Add":
            assert all(line.startswith("+") for line in lines)
            files[name] = "".join(f"{line[1:]}\n" for line in lines)
        else:
            for change in "\n".join(lines).split("@@")[1:]:
                context, *changed = change.removesuffix("\n").split("\n")
                before = [context.strip(), *(line[1:] for line in changed if line[0] in " -")]
                after = [context.strip(), *(line[1:] for line in changed if line[0] in " +")]
                old, new = ("\n".join(filter(None, part)) for part in (before, after))
                assert files[name].count(old) == 1
                files[name] = files[name].replace(old, new)
    return files
