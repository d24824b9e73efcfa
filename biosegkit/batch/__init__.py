"""Many images and giant ones on dask.distributed: worker processes, a ledger, and images that fail alone.

Nothing is imported here: the packages of the extra ``batch`` are needed by those who run a batch.
"""
