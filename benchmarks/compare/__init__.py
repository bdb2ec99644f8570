"""The family side by side: trained alike, measured alike."""
