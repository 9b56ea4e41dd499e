"""The embedded default's own training and evidence: worlds as training videos, and what is measured on them."""
