# Configures foreign/ in one of the three ways and builds the example of mmu/README.md. One way builds
# the library with it and runs it; the others compile it, for the library would be the same.
execute_process(COMMAND ${CMAKE_COMMAND} -E rm -rf ${BUILD} COMMAND_ERROR_IS_FATAL ANY)
execute_process(
  COMMAND ${CMAKE_COMMAND} -G ${GENERATOR} -S ${CMAKE_CURRENT_LIST_DIR}/foreign -B ${BUILD}
    -D WAY=${WAY} -D UNDERFOOT=${UNDERFOOT} -D CMAKE_CXX_COMPILER=${CXX}
  COMMAND_ERROR_IS_FATAL ANY)
if(WAY STREQUAL "library")
  execute_process(COMMAND ${CMAKE_COMMAND} --build ${BUILD} --target example
    COMMAND_ERROR_IS_FATAL ANY)
  execute_process(COMMAND ${BUILD}/example COMMAND_ERROR_IS_FATAL ANY)
else()
  execute_process(COMMAND ${CMAKE_COMMAND} --build ${BUILD} --target example_objects
    COMMAND_ERROR_IS_FATAL ANY)
endif()
