# in:  results/{dataset}/genes/genes.parquet, results/{dataset}/processed/{part}.h5ad, resources/{resource}
# out: results/{dataset}/tokenized/{tokenizer}/vocabulary.json       {token: id}                contract: vocabulary
#      results/{dataset}/tokenized/{tokenizer}/gene_tokens.parquet   each gene's token
#      results/{dataset}/tokenized/{tokenizer}/{part}.parquet        cell_id, input_ids         contract: tokens


def tokenizer_spec(wildcards):
    known = PROJECT.config.tokenizers
    if wildcards.tokenizer not in known:
        raise WorkflowError(f"No tokenizer '{wildcards.tokenizer}' in config/config.yaml, which has: {', '.join(known)}.")
    return known[wildcards.tokenizer]


def tokenizer_files(wildcards):
    return [f"resources/{name}" for name in tokenizer_spec(wildcards).needs().values()]


rule build_vocabulary:
    input:
        genes="results/{dataset}/genes/genes.parquet",
        files=tokenizer_files,
    output:
        vocabulary="results/{dataset}/tokenized/{tokenizer}/vocabulary.json",
        gene_tokens="results/{dataset}/tokenized/{tokenizer}/gene_tokens.parquet",
    params:
        tokenizer=lambda wildcards: plain(tokenizer_spec(wildcards)),
        contract=str(versions.VOCABULARY),
    log:
        "logs/build_vocabulary/{dataset}.{tokenizer}.log",
    benchmark:
        "benchmarks/build_vocabulary/{dataset}.{tokenizer}.jsonl"
    conda:
        "../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    script:
        "../scripts/build_vocabulary.py"


rule tokenize_part:
    input:
        processed="results/{dataset}/processed/{part}.h5ad",
        vocabulary="results/{dataset}/tokenized/{tokenizer}/vocabulary.json",
        gene_tokens="results/{dataset}/tokenized/{tokenizer}/gene_tokens.parquet",
    output:
        tokens="results/{dataset}/tokenized/{tokenizer}/{part}.parquet",
    params:
        tokenizer=lambda wildcards: plain(tokenizer_spec(wildcards)),
        contract=str(versions.TOKENS),
    log:
        "logs/tokenize_part/{dataset}.{tokenizer}.{part}.log",
    benchmark:
        "benchmarks/tokenize_part/{dataset}.{tokenizer}.{part}.jsonl"
    conda:
        "../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    script:
        "../scripts/tokenize_part.py"
