# in:  results/{dataset}/genes/genes.parquet, results/{dataset}/processed/{part}.h5ad, resources/{resource}
# out: results/{dataset}/tokenized/{tokenizer}/vocabulary.json       {token: id}                contract: vocabulary
#      results/{dataset}/tokenized/{tokenizer}/gene_tokens.parquet   each gene's token
#      results/{dataset}/tokenized/{tokenizer}/{part}.parquet        cell_id, input_ids         contract: tokens
#      results/vocabularies/{vocabulary}.json      {token: id} over several datasets       contract: flat_vocabulary


rule make_vocabulary:
    input:
        genes=vocabulary_genes,
        extends=extended_vocabulary,
    output:
        vocabulary="results/vocabularies/{vocabulary}.json",
        provenance="results/vocabularies/{vocabulary}.json.provenance.json",
    log:
        "logs/make_vocabulary/{vocabulary}.log",
    benchmark:
        "benchmarks/make_vocabulary/{vocabulary}.jsonl"
    conda:
        "../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 800 * attempt,
        runtime=10,
    params:
        vocabulary=lambda wildcards: plain(vocabulary_spec(wildcards)),
        contract=str(versions.FLAT_VOCABULARY),
    script:
        "../scripts/make_vocabulary.py"


rule build_vocabulary:
    input:
        genes="results/{dataset}/genes/genes.parquet",
        files=tokenizer_files,
    output:
        vocabulary="results/{dataset}/tokenized/{tokenizer}/vocabulary.json",
        gene_tokens="results/{dataset}/tokenized/{tokenizer}/gene_tokens.parquet",
    log:
        "logs/build_vocabulary/{dataset}.{tokenizer}.log",
    benchmark:
        "benchmarks/build_vocabulary/{dataset}.{tokenizer}.jsonl"
    conda:
        "../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 800 * attempt,
        runtime=10,
    params:
        tokenizer=lambda wildcards: plain(tokenizer_spec(wildcards)),
        contract=str(versions.VOCABULARY),
    script:
        "../scripts/build_vocabulary.py"


rule tokenize_part:
    input:
        processed="results/{dataset}/processed/{part}.h5ad",
        vocabulary="results/{dataset}/tokenized/{tokenizer}/vocabulary.json",
        gene_tokens="results/{dataset}/tokenized/{tokenizer}/gene_tokens.parquet",
    output:
        tokens="results/{dataset}/tokenized/{tokenizer}/{part}.parquet",
    log:
        "logs/tokenize_part/{dataset}.{tokenizer}.{part}.log",
    benchmark:
        "benchmarks/tokenize_part/{dataset}.{tokenizer}.{part}.jsonl"
    conda:
        "../envs/core.yaml"
    threads: spare_threads
    resources:
        mem_mb=by_input(900, 700),
        runtime=by_input(20, 30),
    params:
        tokenizer=lambda wildcards: plain(tokenizer_spec(wildcards)),
        contract=str(versions.TOKENS),
    script:
        "../scripts/tokenize_part.py"
