# in:  results/{dataset}/processed/{part}.h5ad, quality/ledger.parquet, genes/genes.parquet,
#      tokenized/{tokenizer}/{part}.parquet, embedded/{embedder}/{part}.npy: row-aligned
# out: results/{dataset}/hf/{export}/manifest.json      Hugging Face dataset: Parquet and card     contract: hf
#      results/{dataset}/mds/{export}/manifest.json     MosaicML MDS shards                        contract: mds
#      results/{dataset}/hdf5/{export}/manifest.json    HDF5 batches                               contract: hdf5
#      results/{dataset}/h5ad/{export}/manifest.json    AnnData files                              contract: h5ad
#      results/{dataset}/scdl/{export}/manifest.json    BioNeMo-SCDL memory maps                   contract: scdl
#      results/{dataset}/geneformer/{export}/manifest.json   Arrow datasets for Geneformer    contract: geneformer
#      results/{dataset}/zarr/{export}/manifest.json    AnnData in sharded zarr                    contract: zarr
#      results/{dataset}/packed/{export}/manifest.json  packed archives                            contract: packed
# Beside each manifest, and written before it: a folder per split.


rule export_hf:
    input:
        processed=per_part("results/{dataset}/processed/{part}.h5ad"),
        ledger="results/{dataset}/quality/ledger.parquet",
        genes="results/{dataset}/genes/genes.parquet",
        tokens=export_tokens("hf"),
        embeddings=export_embeddings("hf"),
        vocabulary=export_vocabulary("hf"),
    output:
        manifest="results/{dataset}/hf/{export}/manifest.json",
    log:
        "logs/export_hf/{dataset}.{export}.log",
    benchmark:
        "benchmarks/export_hf/{dataset}.{export}.jsonl"
    conda:
        "../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=by_input(1400, 100),
        runtime=by_input(60, 30),
    params:
        path="hf/{export}",
        spec=lambda wildcards: plain(export_spec(wildcards, "hf")),
        about=about,
        tokenizers=lambda wildcards: list(export_spec(wildcards, "hf").tokenizers),
        embedders=lambda wildcards: list(export_spec(wildcards, "hf").embedders),
        contract=str(versions.HF),
    script:
        "../scripts/export_hf.py"


rule export_mds:
    input:
        processed=per_part("results/{dataset}/processed/{part}.h5ad"),
        ledger="results/{dataset}/quality/ledger.parquet",
        genes="results/{dataset}/genes/genes.parquet",
        tokens=export_tokens("mds"),
        embeddings=export_embeddings("mds"),
        vocabulary=export_vocabulary("mds"),
    output:
        manifest="results/{dataset}/mds/{export}/manifest.json",
    log:
        "logs/export_mds/{dataset}.{export}.log",
    benchmark:
        "benchmarks/export_mds/{dataset}.{export}.jsonl"
    conda:
        "../envs/core.yaml"
    threads: 2
    resources:
        mem_mb=by_input(1400, 100),
        runtime=by_input(60, 30),
    params:
        path="mds/{export}",
        spec=lambda wildcards: plain(export_spec(wildcards, "mds")),
        about=about,
        tokenizers=lambda wildcards: list(export_spec(wildcards, "mds").tokenizers),
        embedders=lambda wildcards: list(export_spec(wildcards, "mds").embedders),
        contract=str(versions.MDS),
    script:
        "../scripts/export_mds.py"


rule export_hdf5:
    input:
        processed=per_part("results/{dataset}/processed/{part}.h5ad"),
        ledger="results/{dataset}/quality/ledger.parquet",
        genes="results/{dataset}/genes/genes.parquet",
        tokens=export_tokens("hdf5"),
        embeddings=export_embeddings("hdf5"),
        vocabulary=export_vocabulary("hdf5"),
    output:
        manifest="results/{dataset}/hdf5/{export}/manifest.json",
    log:
        "logs/export_hdf5/{dataset}.{export}.log",
    benchmark:
        "benchmarks/export_hdf5/{dataset}.{export}.jsonl"
    conda:
        "../envs/core.yaml"
    threads: 2
    resources:
        mem_mb=by_input(1300, 100),
        runtime=by_input(60, 30),
    params:
        path="hdf5/{export}",
        spec=lambda wildcards: plain(export_spec(wildcards, "hdf5")),
        about=about,
        tokenizers=lambda wildcards: list(export_spec(wildcards, "hdf5").tokenizers),
        embedders=lambda wildcards: list(export_spec(wildcards, "hdf5").embedders),
        contract=str(versions.HDF5),
    script:
        "../scripts/export_hdf5.py"


rule export_h5ad:
    input:
        processed=per_part("results/{dataset}/processed/{part}.h5ad"),
        ledger="results/{dataset}/quality/ledger.parquet",
        genes="results/{dataset}/genes/genes.parquet",
        tokens=export_tokens("h5ad"),
        embeddings=export_embeddings("h5ad"),
        vocabulary=export_vocabulary("h5ad"),
    output:
        manifest="results/{dataset}/h5ad/{export}/manifest.json",
    log:
        "logs/export_h5ad/{dataset}.{export}.log",
    benchmark:
        "benchmarks/export_h5ad/{dataset}.{export}.jsonl"
    conda:
        "../envs/core.yaml"
    threads: 2
    resources:
        mem_mb=by_input(1300, 100),
        runtime=by_input(60, 30),
    params:
        path="h5ad/{export}",
        spec=lambda wildcards: plain(export_spec(wildcards, "h5ad")),
        about=about,
        tokenizers=lambda wildcards: list(export_spec(wildcards, "h5ad").tokenizers),
        embedders=lambda wildcards: list(export_spec(wildcards, "h5ad").embedders),
        contract=str(versions.H5AD),
    script:
        "../scripts/export_h5ad.py"


rule export_scdl:
    input:
        processed=per_part("results/{dataset}/processed/{part}.h5ad"),
        ledger="results/{dataset}/quality/ledger.parquet",
        genes="results/{dataset}/genes/genes.parquet",
        tokens=export_tokens("scdl"),
        embeddings=export_embeddings("scdl"),
        vocabulary=export_vocabulary("scdl"),
    output:
        manifest="results/{dataset}/scdl/{export}/manifest.json",
    log:
        "logs/export_scdl/{dataset}.{export}.log",
    benchmark:
        "benchmarks/export_scdl/{dataset}.{export}.jsonl"
    conda:
        "../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=by_input(1300, 100),
        runtime=by_input(60, 30),
    params:
        path="scdl/{export}",
        spec=lambda wildcards: plain(export_spec(wildcards, "scdl")),
        about=about,
        tokenizers=lambda wildcards: list(export_spec(wildcards, "scdl").tokenizers),
        embedders=lambda wildcards: list(export_spec(wildcards, "scdl").embedders),
        contract=str(versions.SCDL),
    script:
        "../scripts/export_scdl.py"


rule export_geneformer:
    input:
        processed=per_part("results/{dataset}/processed/{part}.h5ad"),
        ledger="results/{dataset}/quality/ledger.parquet",
        genes="results/{dataset}/genes/genes.parquet",
        tokens=export_tokens("geneformer"),
        embeddings=export_embeddings("geneformer"),
        vocabulary=export_vocabulary("geneformer"),
    output:
        manifest="results/{dataset}/geneformer/{export}/manifest.json",
    log:
        "logs/export_geneformer/{dataset}.{export}.log",
    benchmark:
        "benchmarks/export_geneformer/{dataset}.{export}.jsonl"
    conda:
        "../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=by_input(1300, 100),
        runtime=by_input(60, 30),
    params:
        path="geneformer/{export}",
        spec=lambda wildcards: plain(export_spec(wildcards, "geneformer")),
        about=about,
        tokenizers=lambda wildcards: list(export_spec(wildcards, "geneformer").tokenizers),
        embedders=lambda wildcards: list(export_spec(wildcards, "geneformer").embedders),
        contract=str(versions.GENEFORMER),
    script:
        "../scripts/export_geneformer.py"


rule export_zarr:
    input:
        processed=per_part("results/{dataset}/processed/{part}.h5ad"),
        ledger="results/{dataset}/quality/ledger.parquet",
        genes="results/{dataset}/genes/genes.parquet",
        tokens=export_tokens("zarr"),
        embeddings=export_embeddings("zarr"),
        vocabulary=export_vocabulary("zarr"),
    output:
        manifest="results/{dataset}/zarr/{export}/manifest.json",
    log:
        "logs/export_zarr/{dataset}.{export}.log",
    benchmark:
        "benchmarks/export_zarr/{dataset}.{export}.jsonl"
    conda:
        "../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=by_input(1300, 100),
        runtime=by_input(60, 30),
    params:
        path="zarr/{export}",
        spec=lambda wildcards: plain(export_spec(wildcards, "zarr")),
        about=about,
        tokenizers=lambda wildcards: list(export_spec(wildcards, "zarr").tokenizers),
        embedders=lambda wildcards: list(export_spec(wildcards, "zarr").embedders),
        contract=str(versions.ZARR),
    script:
        "../scripts/export_zarr.py"


rule export_packed:
    input:
        processed=per_part("results/{dataset}/processed/{part}.h5ad"),
        ledger="results/{dataset}/quality/ledger.parquet",
        genes="results/{dataset}/genes/genes.parquet",
        tokens=export_tokens("packed"),
        embeddings=export_embeddings("packed"),
        vocabulary=export_vocabulary("packed"),
    output:
        manifest="results/{dataset}/packed/{export}/manifest.json",
    log:
        "logs/export_packed/{dataset}.{export}.log",
    benchmark:
        "benchmarks/export_packed/{dataset}.{export}.jsonl"
    conda:
        "../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=by_input(1300, 100),
        runtime=by_input(60, 30),
    params:
        path="packed/{export}",
        spec=lambda wildcards: plain(export_spec(wildcards, "packed")),
        about=about,
        tokenizers=lambda wildcards: list(export_spec(wildcards, "packed").tokenizers),
        embedders=lambda wildcards: list(export_spec(wildcards, "packed").embedders),
        contract=str(versions.PACKED),
    script:
        "../scripts/export_packed.py"
