"""What nobody has measured: speeds from those that others published, and paging from choices of experts played again.

``expert_trace`` is the file of such choices, which a run writes.
"""
