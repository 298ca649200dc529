"""The VATT model at any size: vision, converter, audio transformer, decoding, codec."""
