"""Scores of variants: of a VCF in windows of a genome, of HGVS strings on a wild type.

from lyra.variants import VariantOptions, score_file

score_file(Predictor.from_pretrained("run/model"), "new.vcf.gz", "out.csv", VariantOptions(genome="hg38.fa"))
"""

from ..settings.variants import VariantOptions
from .files import score_file
from .genome import windows
from .hgvs import apply_hgvs

__all__ = ["VariantOptions", "apply_hgvs", "score_file", "windows"]
