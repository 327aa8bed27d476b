"""Makes faiss.npz: small searches of faiss to compare with.

python tests/golden/make_faiss.py  (with faiss-cpu 1.15.1)
"""

from pathlib import Path

import faiss
import numpy as np

rng = np.random.default_rng(0)
rows = rng.standard_normal((600, 8)).astype(np.float32)
queries = rng.standard_normal((20, 8)).astype(np.float32)
stored = {"rows": rows, "queries": queries}

for name, metric in (("dot", faiss.METRIC_INNER_PRODUCT), ("euclidean", faiss.METRIC_L2)):
    coarse = faiss.IndexFlat(8, metric)
    index = faiss.IndexIVFFlat(coarse, 8, 12, metric)
    index.train(rows)
    index.add(rows)
    index.nprobe = 3
    stored[f"{name}_centroids"] = coarse.reconstruct_n(0, 12)
    stored[f"{name}_scores"], stored[f"{name}_ids"] = index.search(queries, 5)

index = faiss.IndexPQ(8, 4, 4)
index.train(rows)
index.add(rows)
stored["codebooks"] = faiss.vector_to_array(index.pq.centroids).reshape(4, 16, 2)
stored["codes"] = index.pq.compute_codes(rows)
stored["code_scores"], _ = index.search(queries, 5)

clusters = faiss.Kmeans(8, 12, niter=25, seed=1, max_points_per_centroid=600)
clusters.train(rows)
stored["objective"] = clusters.index.search(rows, 1)[0].sum()
np.savez_compressed(Path(__file__).with_name("faiss.npz"), **stored)
