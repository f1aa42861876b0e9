"""The operations that a served model's graph may hold.

A list of what is allowed, not of what is known to be bad: TensorFlow has some 1,900 operations, new ones come with each
version, and its own mark for those without side effects doesn't help (ReadFile, MatchingFiles, ImmutableConst, which maps a
file, and DatasetFromGraph, which runs a graph that it is handed as bytes, all bear it). What is here computes on tensors,
variables and tables of this model. No file, no Python, no network, no data set, no queue, no summary, no printing.
"""

from __future__ import annotations

from collections.abc import Iterator

_COMPUTING = """
    Abs AccumulateNV2 Acos Acosh Add AddN AddV2 Angle ApproximateEqual Asin Asinh Atan Atan2 Atanh BesselI0
    BesselI0e BesselI1 BesselI1e BesselJ0 BesselJ1 BesselK0 BesselK0e BesselK1 BesselK1e BesselY0 BesselY1 Betainc
    Bitcast BitwiseAnd BitwiseOr BitwiseXor Cast Ceil ClipByValue Complex ComplexAbs Conj Cos Cosh Cross Cumprod
    Cumsum CumulativeLogsumexp Dawsn Digamma Div DivNoNan Equal Erf Erfc Erfinv Exp Expint Expm1 Floor FloorDiv
    FloorMod FresnelCos FresnelSin Greater GreaterEqual Igamma Igammac Imag Inv Invert IsFinite IsInf IsNan
    LeftShift Less LessEqual Lgamma Log Log1p LogicalAnd LogicalNot LogicalOr Maximum Minimum Mod Mul MulNoNan Ndtri
    Neg NextAfter NotEqual Polygamma PopulationCount Pow Real RealDiv Reciprocal RightShift Rint Round Rsqrt Sigmoid
    Sign Sin Sinh Spence Sqrt Square SquaredDifference Sub Tan Tanh TruncateDiv TruncateMod Xdivy Xlog1py Xlogy Zeta
    All Any ArgMax ArgMin Bincount Bucketize DenseBincount EuclideanNorm HistogramFixedWidth InTopK InTopKV2 L2Loss
    LowerBound Max Mean Min NthElement Prod RaggedBincount ReduceJoin SegmentMax SegmentMaxV2 SegmentMean SegmentMin
    SegmentMinV2 SegmentProd SegmentProdV2 SegmentSum SegmentSumV2 Sum TopK TopKV2 Unique UniqueV2 UniqueWithCounts
    UniqueWithCountsV2 UnsortedSegmentMax UnsortedSegmentMin UnsortedSegmentProd UnsortedSegmentSum UpperBound
    BatchToSpace BatchToSpaceND BroadcastArgs BroadcastGradientArgs BroadcastTo Concat ConcatOffset ConcatV2
    ConjugateTranspose Const DepthToSpace Diag DiagPart DynamicPartition DynamicStitch EnsureShape ExpandDims Fill
    Gather GatherNd GatherV2 Identity IdentityN InplaceUpdate InvertPermutation LinSpace ListDiff MatrixBandPart
    MatrixDiag MatrixDiagPart MatrixDiagPartV2 MatrixDiagPartV3 MatrixDiagV2 MatrixDiagV3 MatrixSetDiag
    MatrixSetDiagV2 MatrixSetDiagV3 MirrorPad OneHot OnesLike Pack Pad PadV2 ParallelDynamicStitch PreventGradient
    Range Rank Reshape Reverse ReverseSequence ReverseV2 Roll ScatterNd Select SelectV2 Shape ShapeN Size Slice
    Snapshot SpaceToBatch SpaceToBatchND SpaceToDepth Split SplitV Squeeze StopGradient StridedSlice
    TensorScatterAdd TensorScatterMax TensorScatterMin TensorScatterSub TensorScatterUpdate TensorStridedSliceUpdate
    Tile Transpose Unpack UnravelIndex Where ZerosLike
    BandedTriangularSolve BatchMatMul BatchMatMulV2 BatchMatMulV3 Cholesky Eig Einsum FFT FFT2D FFT3D FFTND IFFT
    IFFT2D IFFT3D IFFTND IRFFT IRFFT2D IRFFT3D IRFFTND LogMatrixDeterminant Lu MatMul MatrixDeterminant
    MatrixExponential MatrixInverse MatrixLogarithm MatrixSolve MatrixSolveLs MatrixSquareRoot MatrixTriangularSolve
    Qr RFFT RFFT2D RFFT3D RFFTND SelfAdjointEigV2 SparseMatMul SparseTensorDenseMatMul Svd TridiagonalMatMul
    TridiagonalSolve
    AvgPool AvgPool3D BiasAdd BiasAddV1 BlockLSTM BlockLSTMV2 CTCGreedyDecoder Conv Conv2D Conv2DBackpropInput
    Conv2DBackpropInputV2 Conv3D Conv3DBackpropInputV2 DataFormatDimMap DataFormatVecPermute DepthwiseConv2dNative
    Dequantize Dilation2D Elu FakeQuantWithMinMaxArgs FakeQuantWithMinMaxVars FakeQuantWithMinMaxVarsPerChannel
    FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3 GRUBlockCell LRN LSTMBlockCell LeakyRelu LogSoftmax MaxPool
    MaxPool3D MaxPoolV2 MaxPoolWithArgmax QuantizeAndDequantize QuantizeAndDequantizeV2 QuantizeAndDequantizeV3
    QuantizeAndDequantizeV4 QuantizeV2 Relu Relu6 Selu Softmax Softplus Softsign
    AdjustContrastv2 AdjustHue AdjustSaturation CombinedNonMaxSuppression CropAndResize DrawBoundingBoxesV2
    ExtractImagePatches ExtractVolumePatches HSVToRGB ImageProjectiveTransformV2 ImageProjectiveTransformV3
    NonMaxSuppressionV3 NonMaxSuppressionV4 NonMaxSuppressionV5 RGBToHSV ResizeArea ResizeBicubic ResizeBilinear
    ResizeNearestNeighbor ScaleAndTranslate
    AsString DecodeBase64 DecodeRaw EncodeBase64 Fingerprint RegexFullMatch RegexReplace StaticRegexFullMatch
    StaticRegexReplace StringFormat StringJoin StringLength StringLower StringNGrams StringSplit StringSplitV2
    StringStrip StringToHashBucket StringToHashBucketFast StringToHashBucketStrong StringToNumber StringUpper Substr
    UnicodeDecode UnicodeDecodeWithOffsets UnicodeEncode UnicodeScript UnicodeTranscode UnsortedSegmentJoin
    DenseCountSparseOutput RaggedCountSparseOutput RaggedCross RaggedFillEmptyRows RaggedGather RaggedRange
    RaggedTensorFromVariant RaggedTensorToSparse RaggedTensorToTensor RaggedTensorToVariant SparseBincount
    SparseConcat SparseCountSparseOutput SparseCross SparseCrossHashed SparseCrossV2 SparseFillEmptyRows
    SparseReduceMax SparseReduceSum SparseReorder SparseReshape SparseSegmentMean SparseSegmentMeanWithNumSegments
    SparseSegmentSqrtN SparseSegmentSqrtNWithNumSegments SparseSegmentSum SparseSegmentSumWithNumSegments
    SparseSlice SparseSoftmax SparseSplit SparseTensorDenseAdd SparseToDense
    RandomIndexShuffle StatelessMultinomial StatelessParameterizedTruncatedNormal StatelessRandomBinomial
    StatelessRandomGammaV2 StatelessRandomGammaV3 StatelessRandomGetKeyCounter StatelessRandomGetKeyCounterAlg
    StatelessRandomNormal StatelessRandomNormalV2 StatelessRandomPoisson StatelessRandomUniform
    StatelessRandomUniformFullInt StatelessRandomUniformFullIntV2 StatelessRandomUniformInt
    StatelessRandomUniformIntV2 StatelessRandomUniformV2 StatelessShuffle StatelessTruncatedNormal
    StatelessTruncatedNormalV2
    ControlTrigger EmptyTensorList Enter Exit FakeParam LoopCond Merge NextIteration NoOp PartitionedCall
    Placeholder PlaceholderWithDefault StatelessCase StatelessIf StatelessWhile Switch TensorListConcat
    TensorListConcatLists TensorListConcatV2 TensorListElementShape TensorListFromTensor TensorListGather
    TensorListGetItem TensorListLength TensorListPopBack TensorListPushBack TensorListPushBackBatch
    TensorListReserve TensorListResize TensorListScatter TensorListScatterIntoExistingList TensorListScatterV2
    TensorListSetItem TensorListSplit TensorListStack
"""
# variables, tables, loops and calls
_HOLDING = """
    Assert AssignVariableOp Case CheckNumerics CheckNumericsV2 DeviceIndex DisableCopyOnRead GuaranteeConst HashTableV2 If
    IsTensorFloat32Enabled LookupTableExportV2 LookupTableFindV2 LookupTableImportV2 LookupTableSizeV2 MutableHashTableV2
    ReadVariableOp ResourceGather ResourceGatherNd StatefulPartitionedCall StatelessRandomGetAlg TensorArrayCloseV3
    TensorArrayConcatV3 TensorArrayGatherV3 TensorArrayReadV3 TensorArrayScatterV3 TensorArraySizeV3 TensorArraySplitV3
    TensorArrayV3 TensorArrayWriteV3 VarHandleOp VarIsInitializedOp VariableShape While
"""
ALLOWED = frozenset((_COMPUTING + _HOLDING).split())
# what the saver's two functions need besides: they write and read the file that they are given
SAVING = frozenset(("MergeV2Checkpoints", "RestoreV2", "SaveV2", "ShardedFilename"))
# what calls them, in the graph itself
_SAVER = frozenset(("Identity", "NoOp", "PartitionedCall", "StatefulPartitionedCall"))


def objections(meta_graph) -> Iterator[str]:
    """What a MetaGraphDef holds that a served model may not, such as `WriteFile in function f`; nothing where all is well.

    Every SavedModel carries a function that saves its variables and one that restores them, for TensorFlow Serving's
    loader. `saver_def` tells which, and nothing else may lead to them: a signature that called one would write files.
    """
    graph = meta_graph.graph_def
    savers = _saver_nodes(meta_graph)
    saving = {called for node in graph.node if node.name in savers for called in _called(node.attr)}
    for node in graph.node:
        if node.name in savers and (node.op not in _SAVER or len(list(_called(node.attr))) > 1):
            yield f"{node.op} in the place of the saver"
        if node.name not in savers:
            yield from _of_node(node, "the graph", ALLOWED, saving)
            yield from (f"{node.name} runs the saver" for source in node.input if _node_name(source) in savers)
    for function in graph.library.function:
        name = function.signature.name
        allowed = ALLOWED | SAVING if name in saving else ALLOWED
        for node in function.node_def:
            yield from _of_node(node, f"function {name}", allowed, saving)
        # an operation of that name would call it, or the optimizer may put it in the place of another function
        if name in saving and (name in ALLOWED or "api_implements" in function.attr):
            yield f"function {name} saves, and stands for something else"
    for name in sorted(saving & _of_objects(meta_graph.object_graph_def)):
        yield f"function {name} saves, and is an object's function"
    for key, signature in meta_graph.signature_def.items():
        if any(_node_name(tensor.name) in savers for tensor in signature.outputs.values()):
            yield f"signature {key} runs the saver"


def _of_objects(objects) -> set[str]:
    """The functions that objects of the model can call: a loader looks those up that nodes name, listed or not."""
    found = set(objects.concrete_functions)
    for node in objects.nodes:
        found |= {node.bare_concrete_function.concrete_function_name, node.captured_tensor.concrete_function}
        found |= set(node.function.concrete_functions)
    return found


def _saver_nodes(meta_graph) -> set[str]:
    saver = meta_graph.saver_def
    return {_node_name(name) for name in (saver.save_tensor_name, saver.restore_op_name) if name}


def _of_node(node, where: str, allowed: frozenset[str], saving: set[str]) -> Iterator[str]:
    if node.op not in allowed:
        yield f"{node.op} in {where}"
    yield from (f"a call of {called}, which saves, in {where}" for called in _called(node.attr) if called in saving)


def _called(attributes) -> Iterator[str]:
    """The functions that a node's attributes name."""
    for value in attributes.values():
        for function in (value.func, *value.list.func):
            if function.name:
                yield function.name
            yield from _called(function.attr)


def _node_name(tensor: str) -> str:
    """`name` of `name`, `name:0` and, as a control input, `^name`."""
    return tensor.removeprefix("^").partition(":")[0]
