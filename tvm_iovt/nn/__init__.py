"""Multi-branch networks in torch: blocks, networks, their branch configurations and deployment.

    from tvm_iovt.nn.deploy import deploy
    from tvm_iovt.nn.export import export_onnx
    from tvm_iovt.nn.networks import repvgg

    model = repvgg("A0")
    ...                                            # train, or load weights
    export_onnx(deploy(model), Path("a0.onnx"), (1, 3, 224, 224), training_form=False)

Branch configurations and the decoding of detections work without torch; importing any other module
of the package raises a `UsageError` if it is missing (`pip install "tvm-iovt[torch]"`).
"""
